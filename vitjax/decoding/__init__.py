"""Generation from encoder-decoders: greedy, sampling and beam search as in transformers, each one compiled loop."""

from vitjax.decoding.allowed import AllowedSequences
from vitjax.decoding.beam_search import beam_search
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import decode, encode, encode_and_decode, generate
from vitjax.decoding.sample import greedy, sample
from vitjax.decoding.score import Scores, score
from vitjax.decoding.sequences import Sequences
from vitjax.decoding.speculative import Assistant, Speculation, speculate, speculative
from vitjax.decoding.stream import stream

__all__ = [
    "AllowedSequences",
    "Assistant",
    "GenerationConfig",
    "Scores",
    "Sequences",
    "Speculation",
    "beam_search",
    "decode",
    "encode",
    "encode_and_decode",
    "generate",
    "greedy",
    "sample",
    "score",
    "speculate",
    "speculative",
    "stream",
]
