"""EleutherAI's ``lm_eval`` with models that Rill runs.

    python -m rill.lm_eval --model rill --model_args image=lfm2.rill,ram=1GiB --tasks hellaswag

is ``lm_eval`` with ``rill`` among its models, which it has no other way to learn of. The image's own
tokenizer and chat template are used (``--apply_chat_template``).
"""

from __future__ import annotations

import sys
from typing import Any, Optional

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from . import load


@register_model("rill")
class RillLM(LM):
    """A model for ``lm_eval``. Its arguments are those of :func:`rill.load`, and ``max_gen_toks``."""

    def __init__(
        self,
        image: str,
        ram: Any = None,
        context: Optional[int] = None,
        conversations: int = 4,
        kv: str = "f16",
        threads: Optional[int] = None,
        max_gen_toks: int = 256,
        **_: Any,
    ) -> None:
        super().__init__()
        settings = {"conversations": int(conversations), "kv": kv, "threads": threads}
        self.model = load(image, ram=ram, context=context, **settings)
        self.max_gen_toks = int(max_gen_toks)

    @property
    def tokenizer_name(self) -> str:
        return self.model.name

    @property
    def _prefix(self) -> int:
        """What a text without anything before it comes after."""
        return self.model.stops[0] if self.model.begin is None else self.model.begin

    def _tokens(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text, control=True)

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        # Space at the end of a context belongs to what follows: a token seldom ends in one.
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        before = self._tokens(kept)
        after = self._tokens(kept + continuation)[len(before) :]
        if before[:1] != [self._prefix]:
            before = [self._prefix, *before]
        return before, after

    def _score(self, before: list[int], after: list[int]) -> tuple[float, bool]:
        # What does not fit is left out at the beginning.
        tokens = [*before, *after][-(self.model.context + 1) :]
        start = max(len(tokens) - len(after), 1)
        scores = self.model.score(tokens, start)
        return sum(score for score, _ in scores), all(best for _, best in scores)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        done = []
        for request in requests:
            done.append(self._score(*self._pair(*request.args)))
            self.cache_hook.add_partial("loglikelihood", request.args, done[-1])
        return done

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        done = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self._tokens(request.args[0]),
                prefix_token=self._prefix,
                max_seq_len=self.model.context,
                context_len=1,
            )
            pairs = map(make_disjoint_window, windows)
            done.append(sum(self._score(*pair)[0] for pair in pairs))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, done[-1])
        return done

    def generate_until(self, requests: list[Any]) -> list[str]:
        done: list[str] = [""] * len(requests)
        # Those with the same settings go side by side.
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        for numbers in groups.values():
            settings = requests[numbers[0]].args[1]
            stops = settings.get("until") or []
            stops = [stops] if isinstance(stops, str) else list(stops)
            greedy = not settings.get("do_sample", False)
            answers = self.model.generate(
                [requests[number].args[0] for number in numbers],
                raw=True,
                max_tokens=int(settings.get("max_gen_toks", self.max_gen_toks)),
                stop=[stop for stop in stops if stop],
                temperature=0.0 if greedy else settings.get("temperature"),
                top_p=None if greedy else settings.get("top_p"),
                repetition_penalty=1.0 if greedy else None,
            )
            for number, answer in zip(numbers, answers):
                done[number] = answer.text
                self.cache_hook.add_partial("generate_until", requests[number].args, answer.text)
        return done

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if not add_generation_prompt:
            raise NotImplementedError("an assistant's message cannot be begun for the model")
        return self.model.chat_text([(said["role"], said["content"]) for said in chat_history])


def main() -> None:
    """The command ``lm_eval``."""
    from lm_eval.__main__ import cli_evaluate

    sys.exit(cli_evaluate())


if __name__ == "__main__":
    main()
