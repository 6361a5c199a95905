"""Mixture-of-experts language models in little RAM.

    import rill

    with rill.load("lfm2.rill", ram="1GiB") as model:
        for text in model.chat().ask("Why is the sky blue?"):
            print(text, end="", flush=True)

A model may be used by several threads; calls wait for each other, without the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional, Union

import numpy

from ._rill import Engine as _Engine
from ._rill import RillError

__all__ = ["Answer", "Chat", "Model", "RillError", "Tokenizer", "load"]

#: How often each doubles a byte.
_UNITS = {"": 0, "B": 0, "K": 10, "KIB": 10, "M": 20, "MIB": 20, "G": 30, "GIB": 30}


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    #: What it thought before it answered, if it did.
    thinking: Optional[str]
    #: ``"stop"``, ``"max_tokens"`` or ``"context_full"``.
    ending: str
    prompt_tokens: int
    answer_tokens: int


def _bytes(size: Union[int, str, None]) -> Optional[int]:
    if size is None or isinstance(size, int):
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
    unit = found and _UNITS.get(found[2].upper())
    if unit is None:
        raise ValueError(f"{size!r} is no size: write 1GiB, 512MiB or a number of bytes")
    return int(float(found[1]) * (1 << unit))


def _limits(
    max_tokens: Optional[int],
    stop: Union[str, Sequence[str]],
    max_thinking: Optional[int],
    seed: int,
) -> tuple[Optional[int], list[str], Optional[int], int]:
    return max_tokens, [stop] if isinstance(stop, str) else list(stop), max_thinking, seed


def load(
    path: Union[str, os.PathLike[str]],
    *,
    ram: Union[int, str, None] = None,
    context: Optional[int] = None,
    batch: Optional[int] = None,
    conversations: int = 1,
    kv: str = "f16",
    kv_tokens: Optional[int] = None,
    threads: Optional[int] = None,
) -> Model:
    """Loads an image that ``rill pack`` or ``rill pull`` made.

    ``ram`` is for the model with all that Rill needs beside it (``"1GiB"``, or bytes); by default what
    is free. ``context`` is how many tokens a conversation may have, ``conversations`` how many there are
    side by side, ``kv="int8"`` halves what they take, ``kv_tokens`` is how many tokens they have together (by
    default a context each; when there is no room the last ones wait), ``threads`` are all cores by default.
    """
    sizes = (_bytes(ram), context, batch, conversations, kv_tokens)
    return Model(_Engine(os.fspath(path), sizes, kv, threads))


class Tokenizer:
    """The tokenizer of a model."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """The tokens of a text. With ``control`` names of control tokens become those tokens."""
        return self._engine.encode(text, control)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; what is no whole character becomes U+FFFD."""
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes that tokens stand for."""
        return self._engine.decode(list(tokens))


class Chat:
    """A conversation. It takes one of the model's ``conversations`` until it is closed or lost."""

    _id: Optional[int] = None

    def __init__(self, engine: _Engine, system: Optional[str]) -> None:
        self._engine = engine
        self._id = engine.begin(system)

    def __del__(self) -> None:
        # A model that was closed has no conversations any more.
        with contextlib.suppress(RillError):
            self.close()

    def ask(
        self,
        question: str,
        *,
        max_tokens: Optional[int] = None,
        stop: Union[str, Sequence[str]] = (),
        max_thinking: Optional[int] = None,
        temperature: Optional[float] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        min_p: Optional[float] = None,
        repetition_penalty: Optional[float] = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Asks, and gives the text of the answer as it comes. What is None is as the image advises.

        An answer that is not heard to its end is over when the next question is asked.
        """
        choice = (temperature, top_k, top_p, min_p, repetition_penalty)
        limits = _limits(max_tokens, stop, max_thinking, seed)
        self._engine.ask(self._open(), question, limits, choice)
        return iter(lambda: self._engine.speak(self._open()), None)

    def close(self) -> None:
        """Ends the conversation."""
        id, self._id = self._id, None
        if id is not None:
            self._engine.end(id)

    def _open(self) -> int:
        if self._id is None:
            raise RillError("the conversation is closed")
        return self._id

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Model:
    """A loaded model. Made by :func:`load`."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        info = engine.info()
        self.name: str = info["name"]
        #: Logits of a token.
        self.vocab: int = info["vocab"]
        #: Most tokens of a conversation.
        self.context: int = info["context"]
        #: Most conversations at a time.
        self.conversations: int = info["conversations"]
        #: The token that begins every text, if the model wants one.
        self.begin: Optional[int] = info["begin"]
        #: Tokens that end an answer.
        self.stops: list[int] = info["stops"]
        #: Name of the kernels in use.
        self.kernels: str = info["kernels"]
        self.tokenizer = Tokenizer(engine)

    def chat(self, system: Optional[str] = None) -> Chat:
        """Begins a conversation."""
        return Chat(self._engine, system)

    def generate(
        self,
        prompts: Iterable[Union[str, Sequence[tuple[str, str]]]],
        *,
        raw: bool = False,
        max_tokens: Optional[int] = None,
        stop: Union[str, Sequence[str]] = (),
        max_thinking: Optional[int] = None,
        temperature: Optional[float] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        min_p: Optional[float] = None,
        repetition_penalty: Optional[float] = None,
        seed: int = 0,
    ) -> list[Answer]:
        """Answers prompts, as many side by side as there are conversations that nobody has, each as if it
        were alone.

        A prompt is a question, or a list of ``(role, text)``. With ``raw`` it is a text, which the model
        continues.
        """
        limits = _limits(max_tokens, stop, max_thinking, seed)
        choice = (temperature, top_k, top_p, min_p, repetition_penalty)
        asked = list(prompts)
        if raw:
            answers = self._engine.complete(asked, limits, choice)
        else:
            said = [[("user", p)] if isinstance(p, str) else list(p) for p in asked]
            answers = self._engine.answer(said, limits, choice)
        return [Answer(*answer) for answer in answers]

    def logits(self, tokens: Iterable[int]) -> numpy.ndarray:
        """Logits after the last of ``tokens``: float32, (vocab,)."""
        return numpy.frombuffer(self._engine.logits(list(tokens)), numpy.float32)

    def all_logits(self, tokens: Iterable[int]) -> numpy.ndarray:
        """Logits after each of ``tokens``: float32, (tokens, vocab)."""
        logits = numpy.frombuffer(self._engine.all_logits(list(tokens)), numpy.float32)
        return logits.reshape(-1, self.vocab)

    def score(self, tokens: Iterable[int], start: int) -> list[tuple[float, bool]]:
        """Of each token from number ``start`` on: the natural logarithm of its probability after those
        before it, and whether it is the most likely one."""
        return self._engine.score(list(tokens), start)

    def chat_text(self, messages: Sequence[tuple[str, str]]) -> str:
        """A conversation, a list of ``(role, text)``, as the model hears it."""
        return self._engine.chat_text(list(messages))

    def stats(self) -> dict[str, Union[int, float]]:
        """Where time went so far, in seconds, and how the experts' cache did."""
        return self._engine.stats()

    def close(self) -> None:
        """Gives back the memory; a closed model does nothing any more."""
        self._engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
