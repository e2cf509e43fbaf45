"""How likely given texts are, read all at once: for ranking candidates, and for naming classes by their captions."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.models.encoder_decoder import EncoderDecoder
from vitjax.nn.functional import Tree, merge

Mode = Literal["autoregressive", "parallel"]


class Scores(NamedTuple):
    """Natural log-probabilities of N texts for each of B rows.

    Attributes:
      token_log_probs: of each token; 0 in the prompt and where `token_mask` is False.
      log_probs: of each text, their sum.
    """

    token_log_probs: Float[Array, "B N T"]
    log_probs: Float[Array, "B N"]


def score(
    definition: Any,
    params: Tree,
    source: Any,
    tokens: Int[Array | np.ndarray, "B N T"],
    *,
    mode: Mode = "autoregressive",
    source_mask: Bool[Array | np.ndarray, "B S"] | None = None,
    token_mask: Bool[Array | np.ndarray, "B N T"] | None = None,
    prompt_mask: Bool[Array | np.ndarray, "B P"] | None = None,
    stats: Tree | None = None,
    texts_at_once: int | None = None,
) -> Scores:
    """Log-probabilities of N texts for each source, in one compiled program that encodes the source once.

    Args:
      definition, params, source, source_mask, stats: as in `generate`.
      tokens: the texts with the decoder's prompt before them, as `generate` returns them.
      mode: `autoregressive` predicts each token from the source and the tokens before it, as `generate` does.
        `parallel` predicts all of them from the source alone, by a decoder with `parallel_prediction` (CapPa, Tschannen
        et al. 2023), in one pass whatever N is.
      token_mask: True where a token counts, so False behind a text's end; None counts all.
      prompt_mask: the first P tokens are a prompt, which is read and never counts; False where it is padded on the
        left. None is a prompt of one token.
      texts_at_once: of the N, under `autoregressive`; None is all of them. Fewer take less memory, which is
        B * texts_at_once * T * V floats of logits and more.

    Raises:
      ValueError: the model cannot score in this mode, or shapes do not fit.
    """
    rows, count, length = tokens.shape
    if mode not in get_args(Mode):
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(get_args(Mode))}")
    if len(source) != rows:
        raise ValueError(f"source has {len(source)} rows and tokens {list(tokens.shape)}: expected [B, N, T]")
    if token_mask is not None and token_mask.shape != tokens.shape:
        raise ValueError(f"token_mask is {token_mask.shape} and tokens {tokens.shape}: expected the same")
    if prompt_mask is not None and (len(prompt_mask) != rows or not 0 < prompt_mask.shape[1] < length):
        raise ValueError(
            f"prompt_mask is {prompt_mask.shape}: expected [{rows}, P] with P from 1 to {length - 1}, since a text of "
            f"{length} tokens must have one behind its prompt"
        )
    if length < 2:
        raise ValueError("texts of 1 token have nothing to score: put the decoder's start token before them")
    if prompt_mask is not None and mode == "parallel":
        raise ValueError(
            "parallel prediction reads no prompt: begin texts with the start token, pad them on the right, and leave "
            "tokens out by token_mask"
        )
    if texts_at_once is not None and texts_at_once < 1:
        raise ValueError(f"texts_at_once={texts_at_once}: expected 1 or more")
    chunk = None if texts_at_once is None or texts_at_once >= count else texts_at_once
    return _score(
        definition, mode, chunk, params, stats or {}, source, source_mask, tokens, token_mask, prompt_mask
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    definition: Any,
    mode: Mode,
    chunk: int | None,
    params: Tree,
    stats: Tree,
    source: Any,
    source_mask: Any,
    tokens: Int[Array, "B N T"],
    token_mask: Any,
    prompt_mask: Any,
) -> Scores:
    model = _scorer(merge(definition, params, stats), mode)
    encoded = model.encode(source, source_mask=source_mask, train=False)
    if mode == "parallel":
        logits = model.decode(encoded, tokens[:, 0, :-1], parallel=True, train=False).logits  # [B, T - 1, V]
        said = jnp.swapaxes(tokens[:, :, 1:], 1, 2)  # [B, T - 1, N]
        log_probs = jnp.swapaxes(_log_probs(logits, said), 1, 2)
    else:
        mask = None if prompt_mask is None else _pad(prompt_mask, tokens.shape[2] - 1)

        def one(text: Int[Array, "B T"]) -> Float[Array, "B U"]:
            logits = model.decode(encoded, text[:, :-1], decoder_mask=mask, train=False).logits
            return _log_probs(logits, text[:, 1:, None])[..., 0]

        log_probs = _over_texts(one, tokens, chunk)
    prompt = 1 if prompt_mask is None else prompt_mask.shape[1]
    counted = jnp.arange(tokens.shape[2]) >= prompt
    if token_mask is not None:
        counted = counted & token_mask
    log_probs = jnp.where(counted, jnp.pad(log_probs, ((0, 0), (0, 0), (1, 0))), 0)
    return Scores(log_probs, jnp.sum(log_probs, axis=-1))


def _over_texts(
    one: Callable[[Array], Array], tokens: Int[Array, "B N T"], chunk: int | None
) -> Float[Array, "B N U"]:
    """`one` for each of the N texts. What it closes over is computed once and never tiled."""
    if chunk is None:
        return jax.vmap(one, in_axes=1, out_axes=1)(tokens)
    return jnp.swapaxes(jax.lax.map(one, jnp.swapaxes(tokens, 0, 1), batch_size=chunk), 0, 1)


def _log_probs(logits: Float[Array, "B U V"], tokens: Int[Array, "B U N"]) -> Float[Array, "B U N"]:
    return jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), tokens, axis=-1)


def _pad(prompt_mask: Bool[Array, "B P"], length: int) -> Bool[Array, "B T"]:
    """All that follows a prompt is read."""
    return jnp.pad(prompt_mask, ((0, 0), (0, length - prompt_mask.shape[1])), constant_values=True)


def _scorer(model: Any, mode: Mode) -> Any:
    name = type(model).__name__
    if not (hasattr(model, "encode") and hasattr(model, "decode")):
        raise ValueError(
            f"{name} cannot score texts: expected a model with encode and decode, such as EncoderDecoder or "
            "ShowAttendTell"
        )
    if mode == "parallel" and not isinstance(model, EncoderDecoder):
        raise ValueError(
            f"{name} cannot predict in parallel, it must read each token before the next: use mode='autoregressive'"
        )
    return model
