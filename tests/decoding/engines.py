"""Beam search of t5x, fairseq and CTranslate2 restated in plain NumPy, one row at a time, in their own code's order.

Each gives hypotheses (tokens with prompt and EOS, score), best first, and the number of decoder steps. Where an engine
keeps EOS out of a hypothesis, it is put back for comparison. Written from t5x `decoding.py` (beam_search), fairseq
`sequence_generator.py` with `search.py`, and CTranslate2 `decoding.cc` (BeamSearch::search).
"""

import numpy as np

from tests.decoding.reference import Logits, descending, log_softmax, processed
from vitjax.decoding import GenerationConfig

Found = list[tuple[list[int], float]]
Outcome = tuple[Found, int]
T5X_LOW = np.float32(-1e7)


def t5x(logits: Logits, prompt: list[int], config: GenerationConfig) -> Outcome:
    beams, alpha, (eos,) = config.num_beams, config.length_penalty, config.stop_ids
    longest = config.limits(len(prompt)).maximum - len(prompt)

    def brevity(length: int) -> float:
        return ((5.0 + length) / 6.0) ** alpha

    live, live_scores = [list(prompt)] * beams, np.array([0.0] + [T5X_LOW] * (beams - 1), np.float32)
    done: list[list[int]] = [[]] * beams
    done_scores, done_flags = np.full(beams, T5X_LOW), np.zeros(beams, bool)
    step = 0
    while step < longest:
        worst = np.where(done_flags, done_scores.min(), T5X_LOW)
        if (worst > live_scores[0] / brevity(longest + 1)).all():
            break
        said = [processed(log_softmax(logits(s)), s, config, len(prompt)) for s in live]
        flat = np.concatenate([row + score for row, score in zip(said, live_scores, strict=True)])
        top, vocabulary = descending(flat, 2 * beams), len(said[0])
        sequences = [[*live[i // vocabulary], int(i % vocabulary)] for i in top]
        ended = np.array([s[-1] == eos for s in sequences])

        going = flat[top] + ended * T5X_LOW
        keep = descending(going, beams)
        live, live_scores = [sequences[i] for i in keep], going[keep]

        scores = flat[top] / brevity(step + 1) + ~ended * T5X_LOW
        pool, pool_scores = done + sequences, np.concatenate([done_scores, scores])
        flags = np.concatenate([done_flags, ended])
        keep = descending(pool_scores, beams)
        done, done_scores, done_flags = [pool[i] for i in keep], pool_scores[keep], flags[keep]
        step += 1
    if not done_flags.any():
        return list(zip(live, live_scores.tolist(), strict=True)), step
    found = [(s, float(score)) for s, score, flag in zip(done, done_scores, done_flags, strict=True) if flag]
    return found, step


def fairseq(logits: Logits, prompt: list[int], config: GenerationConfig) -> Outcome:
    beams, (eos,) = config.num_beams, config.stop_ids
    max_len = config.limits(len(prompt)).maximum - len(prompt) - 1  # without EOS
    tokens, scores = [list(prompt)] * beams, np.zeros(beams, np.float32)
    finalized: Found = []
    for step in range(max_len + 1):
        said = np.stack([log_softmax(logits(s)) for s in tokens])
        said[:, config.pad_token_id] = -np.inf
        if step >= max_len:
            said[:, np.arange(said.shape[1]) != eos] = -np.inf
        said = np.stack([processed(row, s, config, len(prompt)) for row, s in zip(said, tokens, strict=True)])
        vocabulary = said.shape[1]
        flat = said[0] if step == 0 else (said + scores[:, None]).reshape(-1)
        top = descending(flat, min(2 * beams, flat.size - 1))
        candidates = [[*tokens[i // vocabulary], int(i % vocabulary)] for i in top]
        is_eos = np.array([c[-1] == eos for c in candidates]) & (flat[top] != -np.inf)
        for rank in range(min(beams, len(top))):
            if is_eos[rank] and len(finalized) < beams:
                score = float(flat[top][rank]) / (step + 1) ** config.length_penalty
                finalized.append((candidates[rank], score))
        if len(finalized) == beams or step == max_len:
            break
        active = [rank for rank in range(len(top)) if not is_eos[rank]][:beams]
        tokens, scores = [candidates[rank] for rank in active], flat[top][active]
    return sorted(finalized, key=lambda found: found[1], reverse=True), step + 1


def ctranslate2(logits: Logits, prompt: list[int], config: GenerationConfig) -> Outcome:
    beams, penalty = config.num_beams, config.length_penalty
    max_length = config.limits(len(prompt)).maximum - len(prompt)
    alive: list[list[int]] = [list(prompt)]
    scores = np.zeros(1, np.float32)
    top_beam_finished = False
    results: list[tuple[list[int], int, float]] = []  # with the length that counts
    for step in range(max_length):
        said = np.stack([log_softmax(processed(logits(s), s, config, len(prompt))) for s in alive])
        vocabulary = said.shape[1]
        flat = (said + scores[:, None]).reshape(-1)
        top = descending(flat, 2 * beams)
        candidates = [[*alive[i // vocabulary], int(i % vocabulary)] for i in top]
        last_step = step + 1 == max_length
        spare, active = beams, []
        for k in range(beams):
            next_beam = k
            ends = candidates[k][-1] in config.stop_ids
            if ends or last_step:
                top_beam_finished |= k == 0
                results.append((candidates[k], step if ends else step + 1, float(flat[top[k]])))
                for j in range(spare, 2 * beams):
                    if candidates[j][-1] not in config.stop_ids:
                        next_beam, spare = j, j + 1
                        break
            active.append(next_beam)
        if penalty == 0:
            finished = top_beam_finished and len(results) >= config.num_return_sequences
        else:
            finished = len(results) >= beams
        if finished or last_step:
            break
        alive, scores = [candidates[k] for k in active], flat[top][active]
    with np.errstate(divide="ignore"):
        final = [(s, float(score / np.float64(length) ** penalty)) for s, length, score in results]
    return sorted(final, key=lambda found: found[1], reverse=True)[: config.num_return_sequences], step + 1


ENGINES = {"t5x": t5x, "fairseq": fairseq, "ctranslate2": ctranslate2}
