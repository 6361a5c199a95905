"""What `import rill` promises, with the kiosk model. Usage: test_rill.py IMAGE PROGRAM"""

import gc
import json
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import numpy
import rill

IMAGE, PROGRAM = sys.argv[1:3]
QUESTION = "Where is the lift?"


def load(**options):
    return rill.load(IMAGE, **{"ram": "96MiB", "context": 512, **options})


def resident():
    """Bytes of RAM that this process has."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Package(unittest.TestCase):
    def test_a_thousand_prompts_are_answered_as_the_program_answers_them(self):
        asked = [f"What is in room {number}?" for number in range(1000)]
        with tempfile.TemporaryDirectory() as folder:
            prompts = pathlib.Path(folder, "prompts.jsonl")
            prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in asked))
            options = ["--file", prompts, "--ram", "96MiB", "-c", "512", "--conversations", "8"]
            command = [PROGRAM, "run", "-m", IMAGE, *options, "-n", "12"]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        expected = [json.loads(line) for line in lines.splitlines()]
        with load(conversations=8) as model:
            answers = model.generate(asked, max_tokens=12)
        self.assertEqual([answer.text for answer in answers], [line["text"] for line in expected])
        self.assertEqual(
            [(answer.ending, answer.prompt_tokens, answer.answer_tokens) for answer in answers],
            [(line["ending"], line["prompt_tokens"], line["answer_tokens"]) for line in expected],
        )

    def test_a_conversation_that_is_lost_or_closed_leaves_its_place(self):
        with load(conversations=1) as model:
            for _ in range(3):
                self.assertTrue("".join(model.chat().ask(QUESTION)))
            chat = model.chat()
            heard = chat.ask(QUESTION)
            next(heard)
            with self.assertRaisesRegex(rill.RillError, "1 conversations are in use"):
                model.chat()
            chat.close()
            chat.close()
            for late in (lambda: next(heard), lambda: chat.ask(QUESTION)):
                with self.assertRaisesRegex(rill.RillError, "conversation is closed"):
                    late()
            other = model.chat()
            # What was closed ends nobody else's when it goes.
            del chat, heard, late
            gc.collect()
            self.assertTrue("".join(other.ask(QUESTION)))
        del other

    def test_an_answer_comes_as_it_is_said(self):
        with load(conversations=2) as model:
            parts = list(model.chat().ask(QUESTION))
            (whole,) = model.generate([QUESTION])
            self.assertGreater(len(parts), 2)
            self.assertEqual("".join(parts), whole.text)

    def test_an_answer_that_is_not_heard_to_its_end_is_over(self):
        with load(conversations=2) as model, model.chat("Be brief.") as chat:
            next(chat.ask(QUESTION))
            self.assertTrue("".join(chat.ask("Who are you?", max_tokens=5)))

    def test_logits_are_numbers_of_every_token(self):
        with load() as model:
            tokens = model.tokenizer.encode(QUESTION)
            every = model.all_logits(tokens)
            self.assertEqual((every.shape, every.dtype), ((len(tokens), model.vocab), numpy.float32))
            numpy.testing.assert_array_equal(every[-1], model.logits(tokens))
            numpy.testing.assert_array_equal(every[1], model.logits(tokens[:2]))
            shares = every - numpy.logaddexp.reduce(every.astype(float), axis=1, keepdims=True)
            expected = [shares[at - 1, tokens[at]] for at in range(1, len(tokens))]
            scores = model.score(tokens, 1)
            numpy.testing.assert_allclose([score for score, _ in scores], expected, atol=1e-4)
            best = [bool(every[at - 1].argmax() == tokens[at]) for at in range(1, len(tokens))]
            self.assertEqual([is_best for _, is_best in scores], best)

    def test_tokens_are_text_again(self):
        with load() as model:
            for text in [QUESTION, "Grüße, 日本 🦊", ""]:
                self.assertEqual(model.tokenizer.decode(model.tokenizer.encode(text)), text)
            control = model.tokenizer.encode("<|im_end|>", control=True)
            self.assertEqual(len(control), 1)
            self.assertGreater(len(model.tokenizer.encode("<|im_end|>")), 1)

    def test_a_conversation_has_the_text_that_the_model_hears(self):
        with load() as model:
            text = model.chat_text([("user", QUESTION)])
            self.assertIn(f"<|im_start|>user\n{QUESTION}<|im_end|>", text)
            (chat,) = model.generate([QUESTION], max_tokens=8)
            (raw,) = model.generate([text], raw=True, max_tokens=8)
            self.assertEqual(chat.text, raw.text)

    def test_what_is_wrong_is_an_exception_and_the_model_goes_on(self):
        with self.assertRaisesRegex(rill.RillError, "/nowhere.rill"):
            rill.load("/nowhere.rill")
        with self.assertRaises(ValueError):
            rill.load(IMAGE, ram="much")
        with self.assertRaises(ValueError):
            load(kv="f64")
        with load() as model:
            for wrong in [
                lambda: model.logits([]),
                lambda: model.logits([model.vocab]),
                lambda: model.logits([1] * 513),
                lambda: model.tokenizer.decode([model.vocab]),
                lambda: model.score([1, 2], 0),
                lambda: model.score([1, model.vocab], 1),
                lambda: model.generate([QUESTION], temperature=-1.0),
                lambda: model.generate([QUESTION], stop=""),
                lambda: model.generate(["long " * 600]),
            ]:
                with self.assertRaises(rill.RillError):
                    wrong()
            with self.assertRaises(ValueError):
                model.generate([[("nobody", "says")]])
            chat = model.chat()
            with self.assertRaisesRegex(rill.RillError, "conversations"):
                model.chat()
            chat.close()
            with self.assertRaisesRegex(rill.RillError, "closed"):
                chat.ask(QUESTION)
            self.assertTrue(model.generate([QUESTION], max_tokens=3)[0].text)
        with self.assertRaisesRegex(rill.RillError, "closed"):
            model.stats()

    def test_other_threads_run_while_the_model_computes(self):
        with load() as model:
            done = threading.Event()
            asked = threading.Thread(
                target=lambda: (model.generate([QUESTION] * 4), done.set()), daemon=True
            )
            asked.start()
            turns = 0
            while not done.wait(0.001):
                turns += 1
            asked.join()
            self.assertGreater(turns, 3)

    def test_an_interrupt_ends_the_call_that_it_reaches_and_no_other(self):
        class Enough(Exception):
            pass

        def enough(*_):
            raise Enough

        before = signal.signal(signal.SIGALRM, enough)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        with load(conversations=2) as model:
            asked = [QUESTION, "Who are you?"] * 16
            expected = model.generate(asked)
            for waits in (False, True):
                heard = []
                other = threading.Thread(target=lambda: heard.extend(model.generate(asked)))
                if waits:
                    other.start()
                if not waits:
                    # It waits for the call below.
                    threading.Timer(0.1, other.start).start()
                with self.assertRaises(Enough):
                    signal.setitimer(signal.ITIMER_REAL, 0.3)
                    model.generate([QUESTION] * 10_000)
                while other.ident is None:
                    time.sleep(0.01)
                other.join()
                self.assertEqual(heard, expected)

    def test_nothing_leaks_over_ten_thousand_steps(self):
        with load() as model:

            def steps(count):
                end = model.stats()["answer_tokens"] + count
                while model.stats()["answer_tokens"] < end:
                    with model.chat() as chat:
                        for _ in chat.ask(QUESTION, max_tokens=64, temperature=1.0):
                            pass

            steps(1000)
            gc.collect()
            start = resident()
            steps(10_000)
            gc.collect()
            self.assertLess(resident() - start, 1 << 20)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
