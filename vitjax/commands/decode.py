"""`vitjax decode`: what a run reads in images or text."""

import argparse
import json
from collections.abc import Sequence

EXAMPLE = """examples:
  vitjax decode runs/demo image.png --num-beams 5 --attention where.png
  vitjax decode runs/reverse_words --text "hello" "world" --json
"""


def main(arguments: Sequence[str]) -> int:
    """Print tokens, text and score of every image or text given."""
    parser = argparse.ArgumentParser(
        prog="vitjax decode",
        description="Write what a run reads in image files (JPEG, PNG, WebP) or in text.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="directory of a run")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    parser.add_argument("--text", nargs="+", metavar="TEXT", help="sources of a text-to-text model")
    parser.add_argument("--num-beams", type=int, help="1 is greedy (as in training)")
    parser.add_argument(
        "--num-return-sequences", type=int, default=1, help="hypotheses an image, at most the beams"
    )
    parser.add_argument("--length-penalty", type=float, help="scores are sum(log p) / length ** this")
    parser.add_argument("--max-length", type=int, help="longest sequence, begin and end included")
    parser.add_argument(
        "--attention", metavar="PNG", help="draw where each character was read (image models)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args(arguments)

    import numpy as np

    from vitjax.api import load

    if bool(options.images) == bool(options.text) or not all(options.text or ["-"]):
        raise ValueError("give either image files or --text, and no empty text")
    if options.attention and options.text:
        raise ValueError("--attention draws on images; there are none")
    model = load(options.run)
    if model.tokenizer is None:
        return _classify(model, options)
    mask = None
    if options.images:
        source = _read(model, options.images)
    else:
        if model.preprocess is not None:
            raise ValueError(f"{options.run} reads images, not text")
        length = max(len(text) for text in options.text)
        source = np.stack([model.tokenizer.encode(text, length, special=False) for text in options.text])
        mask = source != model.tokenizer.pad
    given = {
        "num_beams": options.num_beams,
        "length_penalty": options.length_penalty,
        "max_length": options.max_length,
    }
    out = model.generate(
        source,
        source_mask=mask,
        num_return_sequences=options.num_return_sequences,
        return_attention=options.attention is not None,
        **{name: value for name, value in given.items() if value is not None},
    )
    texts = out.text()
    for row, name in enumerate(options.images or options.text):
        for rank, text in enumerate(texts[row]):
            length = int(out.lengths[row, rank])
            score = float(out.scores[row, rank])
            tokens = np.asarray(out.tokens)[row, rank, :length].tolist()
            if options.json:
                print(json.dumps({"source": name, "text": text, "score": score, "tokens": tokens}))
            else:
                print(f"{name}: {text}  (score {score:.4f}, tokens {tokens})")
    if options.attention and out.attention is not None:
        from vitjax.analysis.pictures import draw_reading
        from vitjax.training.config import image_encoder

        draw_reading(
            options.attention,
            source,
            [row[0] for row in texts],
            np.asarray(out.attention[:, 0]),
            image_encoder(model.config),
        )
    return 0


def _read(model, names: Sequence[str]):
    """The images as one uint8 batch of the model's size."""
    import numpy as np

    from vitjax.data.images import read_image

    if model.preprocess is None:
        raise ValueError("this model reads text, not images: use --text")
    return np.stack([model.preprocess(read_image(name)) for name in names])


def _classify(model, options) -> int:
    import jax
    import numpy as np

    if options.text:
        raise ValueError(f"{options.run} names classes of images; it reads no text")
    for name in ("num_beams", "length_penalty", "max_length", "attention"):
        if getattr(options, name) is not None:
            raise ValueError(f"{options.run} names classes: it has no use for --{name.replace('_', '-')}")
    log_probs = np.asarray(jax.nn.log_softmax(model.logits(_read(model, options.images))))
    for name, row in zip(options.images, log_probs, strict=True):
        label = int(row.argmax())
        score = float(row[label])
        record = {"source": name, "label": label, "score": score}
        print(json.dumps(record) if options.json else f"{name}: class {label}  (log-probability {score:.4f})")
    return 0
