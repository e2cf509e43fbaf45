"""The benchmark's model in transformers: `VisionEncoderDecoderModel` of a ViT and a GPT-2 with cross-attention.

Both halves are pre-norm with learned positions, GPT-2's activation is our `gelu_tanh` and its head is tied to the
embedding, so vitjax expresses the pair exactly. The random weights are drawn here and copied into vitjax's tree.

Three ways to run it, all `model.generate(encoder_outputs=...)`, so that the encoder is not timed:

- `transformers`: as the class comes, with `sdpa` and a `DynamicCache`. It projects the encoder's output, repeated for
  every beam, to the decoder's width again at each step, and uses the result only at the first.
- `tuned`: the projection is applied once, beforehand; on CPU, `eager` attention, which is faster there for one query.
- `compiled`: the same with torch.compile and `StaticCache`s for self- and cross-attention, made once and reset.

What transformers 5.23 does with a static cache: `generate(cache_implementation="static")` takes it for
encoder-decoders, with beams too, and gives the same tokens. But it compiles nothing on CPU, in beam search nothing
anywhere (`_beam_search` calls the model itself, only `_sample` takes the compiled call), and it makes new caches in
every call. So `compiled` calls torch.compile itself: one program for a token, used for every step after the prompt,
greedy and with beams. Beam search replaces a static cache's tensors when it reorders them, which would keep CUDA graphs
from being used; on a GPU the cache is therefore reordered in place, on a CPU that is slower and not done.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    EncoderDecoderCache,
    GenerationConfig,
    GPT2Config,
    StaticCache,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.modeling_outputs import BaseModelOutput

from vitjax.models.encoder_decoder import EncoderDecoderConfig

NAMES = ("transformers", "tuned", "compiled")
START = 1


def make_model(config: EncoderDecoderConfig, seed: int = 0) -> VisionEncoderDecoderModel:
    """A random model of this size, on CPU, float32, in evaluation mode.

    The weights are large enough for attention to look somewhere and for the logits (standard deviation about 3) to
    have a clear best, so that rounding does not decide between tokens.
    """
    torch.manual_seed(seed)
    e, d = config.encoder.transformer, config.decoder.transformer
    encoder = ViTConfig(
        hidden_size=e.width,
        num_hidden_layers=e.depth,
        num_attention_heads=e.num_heads,
        intermediate_size=e.feed_forward_width,
        layer_norm_eps=e.norm_epsilon,
        image_size=config.encoder.image_size[0],
        patch_size=config.encoder.patch_size[0],
        initializer_range=0.05,
    )
    decoder = GPT2Config(
        vocab_size=config.decoder.vocabulary_size,
        n_positions=config.decoder.max_length,
        n_embd=d.width,
        n_layer=d.depth,
        n_head=d.num_heads,
        n_inner=d.feed_forward_width,
        layer_norm_epsilon=d.norm_epsilon,
        initializer_range=0.09,
        bos_token_id=START,
        eos_token_id=None,
        add_cross_attention=True,
        is_decoder=True,
    )
    model = VisionEncoderDecoderModel(
        VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    )
    model.generation_config = GenerationConfig(decoder_start_token_id=START, pad_token_id=0)
    with torch.no_grad():
        model.decoder.transformer.ln_f.weight.fill_(2.0)
    return model.eval()


def to_vitjax(model: VisionEncoderDecoderModel) -> dict[str, Any]:
    """The weights as vitjax's parameter tree; the projection to the decoder's width goes into its keys and values."""
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    encoder, decoder = model.config.encoder, model.config.decoder
    weight, shift = state["enc_to_dec_proj.weight"], state["enc_to_dec_proj.bias"]  # [D, E], [D]

    def stacked(count: int, layer: Callable[[int], dict]) -> dict:
        return _stack([layer(index) for index in range(count)])

    def linear(name: str) -> dict[str, np.ndarray]:  # torch: [out, in]
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def conv1d(name: str) -> dict[str, np.ndarray]:  # GPT-2: [in, out]
        return {"kernel": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def heads(projection: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        return {key: value.reshape(*value.shape[:-1], count, -1) for key, value in projection.items()}

    def from_heads(projection: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        kernel = projection["kernel"]
        return {**projection, "kernel": kernel.reshape(count, -1, kernel.shape[-1])}

    def parts(projection: dict[str, np.ndarray], count: int) -> list[dict[str, np.ndarray]]:
        split = {key: np.split(value, count, axis=-1) for key, value in projection.items()}
        return [{key: value[index] for key, value in split.items()} for index in range(count)]

    def folded(projection: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        kernel = projection["kernel"]
        return {"kernel": weight.T @ kernel, "bias": shift @ kernel + projection["bias"]}

    def encoder_block(index: int) -> dict:
        name, count = f"encoder.layers.{index}", encoder.num_attention_heads
        attention = {
            part: heads(linear(f"{name}.attention.{part[0]}_proj"), count)
            for part in ("query", "key", "value")
        }
        return {
            "attention": {**attention, "out": from_heads(linear(f"{name}.attention.o_proj"), count)},
            "attention_sublayer": {"norm": norm(f"{name}.layernorm_before")},
            "feed_forward": {"up": linear(f"{name}.mlp.fc1"), "down": linear(f"{name}.mlp.fc2")},
            "feed_forward_sublayer": {"norm": norm(f"{name}.layernorm_after")},
        }

    def decoder_block(index: int) -> dict:
        name, count = f"decoder.transformer.h.{index}", decoder.n_head
        query, key, value = parts(conv1d(f"{name}.attn.c_attn"), 3)
        cross_key, cross_value = parts(conv1d(f"{name}.crossattention.c_attn"), 2)
        return {
            "attention": {
                "query": heads(query, count),
                "key": heads(key, count),
                "value": heads(value, count),
                "out": from_heads(conv1d(f"{name}.attn.c_proj"), count),
            },
            "attention_sublayer": {"norm": norm(f"{name}.ln_1")},
            "cross_attention": {
                "query": heads(conv1d(f"{name}.crossattention.q_attn"), count),
                "key": heads(folded(cross_key), count),
                "value": heads(folded(cross_value), count),
                "out": from_heads(conv1d(f"{name}.crossattention.c_proj"), count),
            },
            "cross_attention_sublayer": {"norm": norm(f"{name}.ln_cross_attn")},
            "feed_forward": {"up": conv1d(f"{name}.mlp.c_fc"), "down": conv1d(f"{name}.mlp.c_proj")},
            "feed_forward_sublayer": {"norm": norm(f"{name}.ln_2")},
        }

    positions = state["encoder.embeddings.position_embeddings"]  # [1, 1 + P, E]
    return {
        "encoder": {
            "patch_embedding": {
                "projection": {
                    "kernel": state["encoder.embeddings.patch_embeddings.projection.weight"].transpose(
                        2, 3, 1, 0
                    ),
                    "bias": state["encoder.embeddings.patch_embeddings.projection.bias"],
                }
            },
            "positions": {"embedding": positions[0, 1:]},
            "prefix": state["encoder.embeddings.cls_token"] + positions[:, :1],
            "blocks": stacked(encoder.num_hidden_layers, encoder_block),
            "norm": norm("encoder.layernorm"),
        },
        "decoder": {
            "embedding": {
                "tokens": {"embedding": state["decoder.transformer.wte.weight"]},
                "positions": {"embedding": state["decoder.transformer.wpe.weight"]},
            },
            "blocks": stacked(decoder.n_layer, decoder_block),
            "norm": norm("decoder.transformer.ln_f"),
        },
    }


def _stack(trees: list[Any]) -> Any:
    if isinstance(trees[0], dict):
        return {key: _stack([tree[key] for tree in trees]) for key in trees[0]}
    return np.stack(trees)


class Standing(EncoderDecoderCache):
    """Reorders in place, so that a recorded CUDA graph finds the cache where it was."""

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        for part in (self.self_attention_cache, self.cross_attention_cache):
            for layer in part.layers:
                layer.keys.copy_(layer.keys.index_select(0, beam_idx))
                layer.values.copy_(layer.values.index_select(0, beam_idx))


@dataclass
class Peer:
    """One way to run the model on `images` [B, H, W, 3]; `max_length` bounds what it can generate, prompt included."""

    name: str
    model: VisionEncoderDecoderModel
    images: np.ndarray
    max_length: int

    def __post_init__(self) -> None:
        gpu = self.model.device.type == "cuda"
        attention = "sdpa" if gpu or self.name == "transformers" else "eager"
        self.model.set_attn_implementation(attention)
        pixels = torch.from_numpy(np.moveaxis(self.images, -1, 1).copy())
        self.pixels = pixels.to(self.model.device, self.model.dtype)
        self.context = self.encode()
        if self.name != "transformers":
            # what the class checks before it projects
            self.model.decoder.config.cross_attention_hidden_size = self.model.decoder.config.hidden_size
            with torch.no_grad():
                self.context = self.model.enc_to_dec_proj(self.context)
        self.caches: dict[int, EncoderDecoderCache] = {}
        if self.name == "compiled":
            self._compile(gpu)

    @torch.no_grad()
    def encode(self) -> torch.Tensor:
        """The encoder's tokens [B, S, E]."""
        context = self.model.encoder(self.pixels).last_hidden_state
        self._wait()
        return context

    def generate(self, beams: int, tokens: int) -> np.ndarray:
        """Token ids [B, 1 + tokens], start token first."""
        out = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.context),
            num_beams=beams,
            max_new_tokens=tokens,
            do_sample=False,
            disable_compile=True,
            past_key_values=self._cache(beams),
        )
        self._wait()
        return out.cpu().numpy()

    @torch.no_grad()
    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Logits [B, T, V] of every next token."""
        ids = torch.tensor(tokens).to(self.model.device, torch.long)
        out = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.context), decoder_input_ids=ids
        )
        return out.logits.float().cpu().numpy()

    def _cache(self, beams: int) -> EncoderDecoderCache | None:
        if self.name != "compiled":
            return None
        if beams not in self.caches:
            config = self.model.config.decoder
            kind = Standing if self.model.device.type == "cuda" else EncoderDecoderCache
            self.caches[beams] = kind(
                StaticCache(config=config, max_cache_len=self.max_length),
                StaticCache(config=config, max_cache_len=self.context.shape[1]),
            )
        self.caches[beams].reset()
        return self.caches[beams]

    def _compile(self, gpu: bool) -> None:
        """Steps run compiled, the prompt does not: there the caches are filled for the first time."""
        plain = self.model.forward
        step = torch.compile(
            plain, mode="reduce-overhead" if gpu else "default", dynamic=False, fullgraph=True
        )

        @functools.wraps(plain)  # generate reads its signature
        def forward(*args: Any, **kwargs: Any) -> Any:
            cache = kwargs.get("past_key_values")
            if cache is None or not any(cache.is_updated.values()):
                return plain(*args, **kwargs)
            torch.compiler.cudagraph_mark_step_begin()
            return step(*args, **kwargs)

        self.model.forward = forward

    def _wait(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
