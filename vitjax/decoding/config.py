"""What to generate, in the words of transformers' `GenerationConfig`."""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal, NamedTuple, get_args

from vitjax.nn.cache import CacheDtype

DEFAULT_NEW_TOKENS = 20  # transformers' own, where neither length is given
ONE_ID = ("pad_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id")
SEVERAL_IDS = ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
LENGTHS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens")
NUMBERS = (*LENGTHS, "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
Ids = tuple[int, ...] | list[int]
RuleSet = Literal["transformers", "t5x", "fairseq", "ctranslate2"]


class Limits(NamedTuple):
    """Columns of the buffer [B, K, size] that sequences are written in: padding, prompt, new tokens, filler.

    Attributes:
      prompt: columns before the first new token.
      size: columns in all.
      padding: columns in front that no row uses, where prompts share a program with longer ones; the lengths that
        transformers counts are columns minus this.
      minimum: first column in which EOS is possible.
      maximum: columns of the longest sequence, at most `size`.

    `prompt` and `size` are known when the program is compiled; the others may be traced.
    """

    prompt: int
    size: int
    padding: Any
    minimum: Any
    maximum: Any

    def require_room(self, longest: int | None) -> None:
        """ValueError if the model cannot write sequences of this length; None is no limit."""
        if longest is not None and self.maximum > longest:
            raise ValueError(
                f"max_length {self.maximum} is beyond the {longest} learned positions of this decoder: lower it (it "
                "counts the decoder prompt), or max_new_tokens"
            )


@dataclass(frozen=True)
class GenerationConfig:
    """Options of `generate`. Names, defaults and meaning are those of transformers 5; hashable, so static under `jit`.

    Where a tuple is expected a list will do: it is kept as a tuple.

    Attributes:
      max_length: longest sequence, decoder prompt and EOS included.
      max_new_tokens: the same without the prompt; goes before `max_length`. With neither, 20 new tokens.
      min_length: EOS is impossible before a sequence, prompt included, has this length.
      min_new_tokens: the same without the prompt; goes before `min_length`.
      num_beams: 1 decodes greedily, or samples.
      length_penalty: a hypothesis scores `sum(log p) / n**length_penalty`; n counts EOS but not the prompt. Positive
        values favour long sequences, negative ones short sequences.
      early_stopping: when a row with `num_beams` finished hypotheses stops. True: at once. False: when its best
        unfinished beam, scored at its present length, is below the worst finished one. "never": the same, but scored at
        `max_length` where that would be better for it, so that nothing is missed.
      num_return_sequences: hypotheses returned for each row, best first; with `do_sample` independent draws, in the
        order they were drawn.
      do_sample: draw each token at random instead of taking the likeliest. The seven options below shape what is drawn
        from, in this order (`vitjax.decoding.warpers`), and do nothing without it.
      temperature: logits are divided by it.
      top_k: keep the k likeliest tokens, and those that tie with the last of them. 0 or None keeps all.
      top_p: keep the likeliest tokens that together reach this probability (Holtzman et al. 2020). 1 keeps all.
      min_p: keep tokens at least this likely relative to the likeliest (Nguyen et al. 2024). None keeps all.
      typical_p: keep the tokens whose surprise is nearest the expected one, until they reach this probability (Meister
        et al. 2023). 1 keeps all.
      epsilon_cutoff: keep tokens at least this likely (Hewitt et al. 2022). 0 keeps all.
      eta_cutoff: keep tokens at least as likely as the smaller of it and sqrt(it) * exp(-entropy) (Hewitt et al. 2022).
        0 keeps all.
      eos_token_id: one id, several, or None; each of them ends a sequence.
      pad_token_id: fills what lies behind a sequence's end; the first EOS id if None. A pad id of 0 is used as it is
        (transformers' beam search takes 0 for "unset" and fills with EOS).
      bos_token_id: stands in for `decoder_start_token_id`.
      decoder_start_token_id: the decoder prompt where `generate` is given none.
      forced_bos_token_id: the one token possible right after a decoder prompt of one token.
      forced_eos_token_id: the one token possible at `max_length`; of several, each.
      repetition_penalty: tokens already in a sequence, prompt included (but not its padding), are made unlikelier:
        log-probabilities are multiplied by it, positive logits of greedy decoding divided. Below 1 makes them likelier.
      no_repeat_ngram_size: so many tokens in a row appear at most once in a sequence, prompt (and its padding, as in
        transformers) included; 0 allows all.
      bad_words_ids: sequences of ids that are never completed. One EOS id alone is not forbidden by it.
      suppress_tokens: ids that are impossible.
      begin_suppress_tokens: ids impossible as the first new token (the one after `forced_bos_token_id`, where that is
        forced).
      renormalize_logits: what the rules above leave of a distribution is made one again before hypotheses are compared.
      num_beam_groups: diverse beam search (Vijayakumar et al. 2016): the beams are searched in this many equal groups,
        one after the other at each token; the best of all groups are returned.
      diversity_penalty: with groups, a token's score is lowered by this for each beam of an earlier group that has just
        chosen it (Hamming diversity, as in transformers 4); scores and `token_log_probs` include it.
      rules: whose rules beam search follows: "transformers", "t5x", "fairseq" or "ctranslate2"; what differs is in
        `vitjax.decoding.rules`. `early_stopping` belongs to transformers alone.
      cache_dtype: what keys and values are kept in: "float32", "bfloat16", "int8" (a scale for each head's vector), or
        None: the dtype of the model's arithmetic. Only tokens of "float32" and None are exact.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    eos_token_id: int | Ids | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Ids | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[Ids, ...] | list[list[int]] | None = None
    suppress_tokens: Ids | None = None
    begin_suppress_tokens: Ids | None = None
    renormalize_logits: bool = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    rules: RuleSet = "transformers"
    cache_dtype: CacheDtype | None = None

    def __post_init__(self) -> None:
        for name in SEVERAL_IDS:
            object.__setattr__(self, name, _tuple_of_ids(name, getattr(self, name)))
        words = tuple(_tuple_of_ids("bad_words_ids", word) for word in self.bad_words_ids or ())
        object.__setattr__(self, "bad_words_ids", words)
        for name in ("num_beams", "num_beam_groups", "num_return_sequences", "max_length", "max_new_tokens"):
            _at_least(1, name, getattr(self, name))
        for name in ("min_length", "min_new_tokens", "no_repeat_ngram_size", *ONE_ID):
            _at_least(0, name, getattr(self, name))
        if len(set(self.stop_ids)) < len(self.stop_ids):
            raise ValueError(f"eos_token_id={self.stop_ids} names an id twice: give each once")
        if not all(words):
            raise ValueError("bad_words_ids has an empty sequence: give each at least one id")
        if not (isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty}: expected a number above 0 (1 switches it off)"
            )
        if self.num_return_sequences > self.num_beams and not self.do_sample:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} is more than num_beams={self.num_beams}: "
                "a search with K beams returns at most K sequences, raise num_beams or set do_sample=True"
            )
        self._require_sampling()
        if not (isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise ValueError(f"early_stopping={self.early_stopping!r}: expected True, False or 'never'")
        if self.cache_dtype not in (None, *get_args(CacheDtype)):
            raise ValueError(
                f"cache_dtype={self.cache_dtype!r}: expected one of {', '.join(get_args(CacheDtype))}, or None"
            )
        for forced in (_tuple_of_ids("forced_bos_token_id", self.forced_bos_token_id), self.forced_ids):
            if forced and set(forced) <= set(self.suppress_tokens or ()):
                raise ValueError(
                    f"suppress_tokens forbids all of {forced}, one of which is forced: nothing would be possible; take "
                    "them out of one of the two"
                )
        self._require_groups()
        if self.rules not in get_args(RuleSet):
            raise ValueError(f"rules={self.rules!r}: expected one of {', '.join(get_args(RuleSet))}")
        if self.rules != "transformers" and self.early_stopping is not False:
            raise ValueError(
                f"early_stopping={self.early_stopping!r} is a rule of transformers, and rules={self.rules!r} has its "
                "own way to stop: leave one of them out"
            )
        if self.rules != "transformers" and self.do_sample:
            raise ValueError(
                f"rules={self.rules!r} are rules of beam search: leave them out, or do_sample=True"
            )
        if self.rules == "fairseq" and not self.stop_ids:
            raise ValueError("rules='fairseq' ends every sequence with EOS: set eos_token_id")
        if not isfinite(self.length_penalty):
            raise ValueError(
                f"length_penalty={self.length_penalty}: expected a finite number (0 switches it off)"
            )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The EOS ids, () if there are none."""
        return self.eos_token_id  # type: ignore[return-value]  # made a tuple above

    @property
    def forced_ids(self) -> tuple[int, ...]:
        """The ids of which one is forced at the maximum length, () if there are none."""
        return self.forced_eos_token_id  # type: ignore[return-value]  # made a tuple above

    @property
    def filler(self) -> int:
        """Id behind the end of a sequence."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.stop_ids[0] if self.stop_ids else 0

    @property
    def start_id(self) -> int:
        """Decoder prompt of a row that has none."""
        for token in (self.decoder_start_token_id, self.bos_token_id):
            if token is not None:
                return token
        raise ValueError(
            "generate was given no decoder prompt and the config no start token: "
            "pass prompt=[B, T] or set decoder_start_token_id"
        )

    @property
    def num_slots(self) -> int:
        """K: sequences that a row has in the works at a time."""
        return self.num_return_sequences if self.do_sample else self.num_beams

    def without_numbers(self) -> "GenerationConfig":
        """What is left when `Limits` and `Warpers` carry the numbers: the part that a program is compiled for."""
        defaults: dict[str, Any] = {name: self.__dataclass_fields__[name].default for name in NUMBERS}
        return replace(self, **defaults)

    def limits(self, prompt_length: int) -> Limits:
        """Resolve the four length options for prompts of this length; the buffer is as large as the longest sequence.

        Raises:
          ValueError: no room for a token after the prompt, or a minimum above the maximum.
        """
        if self.max_new_tokens is not None:
            maximum = prompt_length + self.max_new_tokens
        elif self.max_length is not None:
            maximum = self.max_length
        else:
            maximum = prompt_length + DEFAULT_NEW_TOKENS
        minimum = self.min_length if self.min_new_tokens is None else prompt_length + self.min_new_tokens
        if maximum <= prompt_length:
            raise ValueError(
                f"max_length={maximum} leaves no room after a decoder prompt of {prompt_length} tokens, which it "
                "counts: raise max_length or set max_new_tokens"
            )
        if minimum > maximum:
            raise ValueError(
                f"the minimum length {minimum} is above the maximum length {maximum} (both count the decoder prompt of "
                f"{prompt_length} tokens): lower min_length or min_new_tokens"
            )
        if self.rules == "fairseq" and minimum == maximum:
            raise ValueError(
                f"the minimum length {minimum} leaves no room for EOS, with which rules='fairseq' ends every sequence: "
                "lower min_length or min_new_tokens"
            )
        return Limits(prompt_length, maximum, 0, minimum, maximum)

    def _require_groups(self) -> None:
        if self.num_beams % self.num_beam_groups:
            raise ValueError(
                f"num_beam_groups={self.num_beam_groups} does not divide num_beams={self.num_beams}: groups are equal"
            )
        if not (isfinite(self.diversity_penalty) and self.diversity_penalty >= 0):
            raise ValueError(
                f"diversity_penalty={self.diversity_penalty}: expected a finite number, 0 or more"
            )
        if (self.num_beam_groups > 1) != (self.diversity_penalty > 0):
            raise ValueError(
                f"num_beam_groups={self.num_beam_groups} with diversity_penalty={self.diversity_penalty}: several "
                "groups find the same without a penalty, and a penalty needs several groups; set both or neither"
            )
        if self.num_beam_groups > 1 and self.rules != "transformers":
            raise ValueError(f"num_beam_groups={self.num_beam_groups} goes with rules='transformers' only")

    def _require_sampling(self) -> None:
        if self.do_sample and self.num_beams > 1:
            raise ValueError(
                f"do_sample=True with num_beams={self.num_beams}: sampling goes without beams, set num_beams=1 (and "
                "num_return_sequences to draw several sequences a row)"
            )
        if not (isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(
                f"temperature={self.temperature}: expected a positive number (for the likeliest token each time, what "
                "0 would mean, set do_sample=False)"
            )
        _at_least(0, "top_k", self.top_k)
        _between(0.0, 1.0, "top_p", self.top_p)
        if self.min_p is not None:
            _between(0.0, 1.0, "min_p", self.min_p)
        if not 0 < self.typical_p <= 1:
            raise ValueError(f"typical_p={self.typical_p}: expected more than 0 and at most 1")
        for name in ("epsilon_cutoff", "eta_cutoff"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more and less than 1")


def _tuple_of_ids(name: str, ids: Any) -> tuple[int, ...]:
    found = () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)
    for token in found:
        _at_least(0, name, token)
    return found


def _at_least(least: int, name: str, value: int | None) -> None:
    if value is not None and value < least:
        raise ValueError(f"{name}={value}: expected {least} or more")


def _between(least: float, most: float, name: str, value: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}={value}: expected {least} to {most}")
