"""Generation restated in plain NumPy, one row at a time, as slowly and literally as possible.

`beam_search` follows transformers 5.x `GenerationMixin._beam_search` line by line (tests/golden checks it against
transformers itself). `best_of_all` enumerates every sequence.
"""

from collections.abc import Callable, Iterator

import numpy as np

from tests.decoding.decoders import next_state
from vitjax.decoding import GenerationConfig

Logits = Callable[[list[int]], np.ndarray]
LOW = np.float32(-1e9)


def table_logits(table: np.ndarray, start: int, mask: list[bool] | None = None) -> Logits:
    """What the table decoders say after a history; `mask` tells which tokens of its beginning (the prompt) are real."""

    def logits(history: list[int]) -> np.ndarray:
        state = start
        for t, token in enumerate(history):
            if mask is None or t >= len(mask) or mask[t]:
                state = next_state(state, token)
        return table[state]

    return logits


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    shifted = x - x.max()
    return shifted - np.log(np.exp(shifted).sum())


def processed(
    scores: np.ndarray, tokens: list[int], config: GenerationConfig, prompt_length: int, padding: int = 0
) -> np.ndarray:
    """The rules of transformers 5.x `_get_logits_processor`, in its order; the first `padding` tokens are not real."""
    limits, length = config.limits(prompt_length), len(tokens)
    scores = scores.copy()
    if config.repetition_penalty != 1.0:
        penalty = np.float32(config.repetition_penalty)
        for token in set(tokens[padding:]):
            scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    size = config.no_repeat_ngram_size
    if size and length >= size:
        recent = tokens[length - size + 1 :]
        for i in range(length - size + 1):
            if tokens[i : i + size - 1] == recent:
                scores[tokens[i + size - 1]] = -np.inf
    for *before, last in config.bad_words_ids:
        if before == tokens[length - len(before) :] and (before or last not in config.stop_ids):
            scores[last] = -np.inf
    if length < limits.minimum:
        scores[list(config.stop_ids)] = -np.inf
    bos = () if config.forced_bos_token_id is None else (config.forced_bos_token_id,)
    for forced, at in ((bos, 1), (config.forced_eos_token_id, limits.maximum - 1)):
        if forced and length == at:
            scores[:] = -np.inf
            scores[list(forced)] = 0
    scores[np.isin(np.arange(len(scores)), config.suppress_tokens)] = -np.inf
    if length == prompt_length + (prompt_length == 1 and config.forced_bos_token_id is not None):
        scores[list(config.begin_suppress_tokens)] = -np.inf
    return log_softmax(scores) if config.renormalize_logits and scores.max() > -np.inf else scores


def greedy(
    logits: Logits, prompt: list[int], config: GenerationConfig, padding: int = 0
) -> tuple[list[int], float]:
    maximum = config.limits(len(prompt)).maximum
    tokens, total = list(prompt), np.float32(0)
    while len(tokens) < maximum:
        said = logits(tokens)
        token = int(np.argmax(processed(said, tokens, config, len(prompt), padding)))
        total += processed(log_softmax(said), tokens, config, len(prompt), padding)[token]
        tokens.append(token)
        if token in config.stop_ids:
            break
    return tokens, float(total) / (len(tokens) - len(prompt)) ** config.length_penalty


def descending(scores: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:count]


def beam_search(
    logits: Logits, prompt: list[int], config: GenerationConfig, padding: int = 0
) -> list[tuple[list[int], float]]:
    """Hypotheses (tokens with prompt and EOS, score), best first."""
    beams, penalty = config.num_beams, config.length_penalty
    width = max(2, 1 + len(config.stop_ids)) * beams
    prompt_length = cur_len = len(prompt)
    maximum = config.limits(prompt_length).maximum
    running = [list(prompt)] * beams
    running_scores = np.full(beams, LOW)
    running_scores[0] = 0
    pool = [list(prompt)] * beams
    pool_scores = np.full(beams, LOW)
    is_finished = np.zeros(beams, bool)
    unsatisfied = True
    while True:
        rows = [processed(log_softmax(logits(s)), s, config, prompt_length, padding) for s in running]
        totals = np.concatenate([row + score for row, score in zip(rows, running_scores, strict=True)])
        top = descending(totals, width)
        top_scores = totals[top]
        vocabulary = len(rows[0])
        candidates = [[*running[i // vocabulary], int(i % vocabulary)] for i in top]
        stops = np.array([c[-1] in config.stop_ids or cur_len + 1 >= maximum for c in candidates])

        going = top_scores + stops.astype(np.float32) * LOW
        chosen = descending(going, beams)
        running, running_scores = [candidates[i] for i in chosen], going[chosen]

        finished = stops & (np.arange(width) < beams)
        scores = top_scores / np.float32(float(cur_len + 1 - prompt_length) ** penalty)
        scores = scores + np.float32(is_finished.all() and config.early_stopping is True) * LOW
        scores = scores + np.float32(not unsatisfied) * LOW
        scores = scores + (~finished).astype(np.float32) * LOW
        merged = pool + candidates
        merged_scores = np.concatenate([pool_scores, scores])
        merged_finished = np.concatenate([is_finished, finished])
        best = descending(merged_scores, beams)
        pool, pool_scores, is_finished = [merged[i] for i in best], merged_scores[best], merged_finished[best]

        cur_len += 1
        far = config.early_stopping == "never" and penalty > 0
        length = (maximum if far else cur_len) - prompt_length
        possible = running_scores[0] / np.float32(float(length) ** penalty)
        worst = np.where(is_finished, pool_scores.min(), LOW)
        unsatisfied = unsatisfied and bool((possible > worst).any())
        if not unsatisfied or (is_finished.all() and config.early_stopping is True) or stops.all():
            break
    return list(zip(pool, pool_scores.tolist(), strict=True))[: config.num_return_sequences]


def every_sequence(
    logits: Logits, prompt: list[int], config: GenerationConfig
) -> Iterator[tuple[list[int], float]]:
    """Each sequence that ends in EOS or at the maximum length, with its score."""
    maximum = config.limits(len(prompt)).maximum

    def grow(tokens: list[int], total: float) -> Iterator[tuple[list[int], float]]:
        if len(tokens) == maximum or (len(tokens) > len(prompt) and tokens[-1] in config.stop_ids):
            yield tokens, total / (len(tokens) - len(prompt)) ** config.length_penalty
            return
        for token, log_prob in enumerate(processed(log_softmax(logits(tokens)), tokens, config, len(prompt))):
            if log_prob > -np.inf:
                yield from grow([*tokens, token], total + float(log_prob))

    yield from grow(list(prompt), 0.0)
