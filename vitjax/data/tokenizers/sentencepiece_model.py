"""SentencePiece files: a processor for its own way to encode, or the pieces for another library's."""

from typing import Any, NamedTuple

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
UNIGRAM, CONTROL, USER_DEFINED = 1, 3, 4  # sentencepiece_model.proto


class Pieces(NamedTuple):
    """A vocabulary as SentencePiece trained it.

    Attributes:
      scores: of each piece, in order of their ids.
      own: (piece, special) of those that are found in a text before anything else; the control pieces are special.
      charsmap: what characters are replaced by, compiled; b"" for nothing.
    """

    scores: list[tuple[str, float]]
    own: list[tuple[str, bool]]
    charsmap: bytes


def read_pieces(content: bytes, where: str) -> Pieces:
    """The unigram model in a file; ValueError if it is none."""
    _library(where)
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ValueError(f"{where} is not a SentencePiece model, or damaged") from None
    if len(model.pieces) < 4:
        raise ValueError(f"{where} holds {len(model.pieces)} pieces: expected a SentencePiece model")
    if model.trainer_spec.model_type != UNIGRAM:
        raise ValueError(
            f"{where} is a SentencePiece model of type {model.trainer_spec.model_type}: expected a unigram model (1)"
        )
    return Pieces(
        [(piece.piece, piece.score) for piece in model.pieces],
        [
            (piece.piece, piece.type == CONTROL)
            for piece in model.pieces
            if piece.type in (CONTROL, USER_DEFINED)
        ],
        model.normalizer_spec.precompiled_charsmap,
    )


def read_processor(content: bytes, where: str) -> Any:
    """A `sentencepiece.SentencePieceProcessor`; ValueError if the file is no model."""
    library = _library(where)
    if not content:
        raise ValueError(f"{where} is empty: expected a SentencePiece model")
    try:
        processor = library.SentencePieceProcessor(model_proto=content)
        for token in range(processor.get_piece_size()):
            processor.id_to_piece(token)
        processor.encode("")
    except (RuntimeError, TypeError, UnicodeDecodeError):
        raise ValueError(f"{where} is not a SentencePiece model, or damaged") from None
    return processor


def _library(where: str) -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise ValueError(f"{where} needs the library sentencepiece: pip install sentencepiece") from None
    return sentencepiece
