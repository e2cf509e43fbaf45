"""How long a decoded token takes, by the number of beams.

    python -m benchmarks.decode              the whole: ViT-S/16 at 224, 6 decoder layers of 256, vocabulary 8,000
    python -m benchmarks.decode --small      the same at a fraction of the size, in a minute

A randomly initialised model writes as long as it is let (there is no EOS). A step's time is the difference between a
long and a short generation, divided by the steps between them, so that encoder, prompt and start-up fall out.
"""

import argparse
from functools import partial

import jax

import vitjax  # noqa: F401  (its guard against miscompiling jaxlib releases comes first)
from benchmarks.measure import alternately, machine, write
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import decode, encode
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig


def model_config(small: bool) -> EncoderDecoderConfig:
    """The model of the benchmark."""
    if small:
        encoder = VisionTransformerConfig.standard("Ti/16", image_size=(64, 64), pooling="none")
        decoder = TransformerConfig(width=128, depth=2, num_heads=4, feed_forward_width=512)
        return EncoderDecoderConfig(encoder, DecoderConfig(decoder, vocabulary_size=1000, max_length=129))
    encoder = VisionTransformerConfig.standard("S/16", class_token=True, pooling="none")
    decoder = TransformerConfig(width=256, depth=6, num_heads=8, feed_forward_width=1024)
    return EncoderDecoderConfig(encoder, DecoderConfig(decoder, vocabulary_size=8000, max_length=129))


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a small model")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 2, 4, 5, 8, 16])
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of the long generation")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    config = model_config(options.small)
    build = partial(_build, config)
    definition, *_ = functional.abstract(build)
    params, _ = jax.jit(lambda key: functional.initialize(build, key))(jax.random.key(0))
    height, width = config.encoder.image_size
    images = jax.random.normal(jax.random.key(1), (options.batch, height, width, 3))
    encoded = encode(definition, params, images)
    short = max(1, options.tokens // 8)

    def generation(beams: int, tokens: int):
        settings = GenerationConfig(max_new_tokens=tokens, num_beams=beams, decoder_start_token_id=1)
        return lambda: decode(definition, params, encoded, config=settings)

    calls = {"encode": lambda: encode(definition, params, images)}
    for beams in options.beams:
        calls |= {
            f"{beams} short": generation(beams, short),
            f"{beams} long": generation(beams, options.tokens),
        }
    times = alternately(calls, options.rounds)
    steps = {
        beams: (times[f"{beams} long"] - times[f"{beams} short"]) / (options.tokens - short)
        for beams in options.beams
    }
    record = {
        "machine": machine(),
        "small": options.small,
        "batch": options.batch,
        "tokens": options.tokens,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "encode_ms": times["encode"],
        "step_ms": steps,
        "generate_ms": {beams: times[f"{beams} long"] for beams in options.beams},
    }
    print(f"{record['machine']['device']}, {record['parameters']:,} parameters, batch {options.batch}")
    print(f"encode              {times['encode']:9.2f} ms")
    one = steps[options.beams[0]]
    for beams, step in steps.items():
        print(f"step, {beams:2} beams      {step:9.3f} ms  {step / one:6.2f} x {options.beams[0]} beam")
    print(f"written to {write('decode_small' if options.small else 'decode', record)}")


def _build(config: EncoderDecoderConfig, rngs):
    return config.build(rngs=rngs)


if __name__ == "__main__":
    main()
