"""Replies: sampling, ranking, judging and mining, against ``generate``, plain passes and ParlAI."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.bench import corpus, peers
from benchmarks.bench.job import Bench, Makers, Row, Target
from benchmarks.bench.measure import Refused, Same, Side, timed
from benchmarks.bench.training import by_piece, computes_bf16
from parlai_prosocial.engines.engine import open_engine
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.models.precision import best_device
from parlai_prosocial.zoo.resolve import open_classifier, open_generator

CONTEXTS, SAMPLES, TOKENS = 8, 8, 40
SAMPLING = {"temperature": 0.7, "top_p": 0.9}
CANDIDATES = 20
JUDGED = 128


def contexts(bench: Bench, count: int = CONTEXTS) -> list[list[str]]:
    """Those of each piece of work; read where a side is made, so that no side's time has it."""
    rows = corpus.rows(bench.datapath, (bench.pairs + 1) * count)
    return by_piece([corpus.text_of(row) for row in rows], count)


def engine(base: Any, bf16: bool) -> TransformersEngine:
    opened = open_generator(base, "--base", None, bf16)
    return TransformersEngine(opened.backbone.to(best_device()), "bench", bf16)


@torch.no_grad()
def check_own_decoding(base: Any, texts: Sequence[str], *precisions: bool) -> None:
    """Raise :class:`Refused` where ours would sample by ``generate``, which is the peer."""
    for bf16 in dict.fromkeys(precisions):
        own = engine(base, bf16)
        with torch.autocast(own.backbone.device.type, torch.bfloat16, enabled=bf16):
            refills = own._refills(own._encode(texts, TOKENS), TOKENS)
        if not refills:
            precision = "bf16" if bf16 else "fp32"
            raise Refused(f"in {precision} our engine samples by generate too, so nothing differs")


class Generate:
    """Hugging Face's ``generate`` with ``num_return_sequences``, one call for all contexts."""

    def __init__(self, base: Any, bf16: bool):
        opened = open_generator(base, "--base", None, bf16)
        self.backbone, self.bf16 = opened.backbone.to(best_device()).eval(), bf16

    @torch.no_grad()
    def sample(self, texts: Sequence[str]) -> list[list[str]]:
        backbone = self.backbone
        encoded = [backbone.prompt.encode_context(text, 256) for text in texts]
        with torch.autocast(backbone.device.type, torch.bfloat16, enabled=self.bf16):
            rows = backbone.generate(
                encoded, TOKENS, do_sample=True, top_k=0, num_return_sequences=SAMPLES, **SAMPLING
            )
        replies = [
            backbone.prompt.tokenizer.decode(backbone.reply_ids(row), skip_special_tokens=True)
            for row in rows
        ]
        return [replies[start:][:SAMPLES] for start in range(0, len(replies), SAMPLES)]

    @torch.no_grad()
    def candidates(self, context: str, replies: Sequence[str]) -> list[float]:
        """Mean log p of each reply: a row for each, the context repeated, all in one pass."""
        backbone = self.backbone
        prefix = backbone.prompt.encode_context(context, 256)
        rows = [[*prefix, *backbone.prompt.encode_response(reply)] for reply in replies]
        longest = max(map(len, rows))
        ids = torch.tensor(
            [row + [backbone.pad_id] * (longest - len(row)) for row in rows], device=backbone.device
        )
        mask = torch.tensor(
            [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=backbone.device
        )
        with torch.autocast(backbone.device.type, torch.bfloat16, enabled=self.bf16):
            logits = backbone.lm(
                input_ids=ids,
                attention_mask=mask,
                use_cache=False,
                logits_to_keep=longest - len(prefix) + 1,  # those that predict a reply's token
            ).logits
        predicted = logits[:, :-1].float().log_softmax(-1)
        found = predicted.gather(2, ids[:, len(prefix) :, None]).squeeze(2)
        # As ours: over the reply's own tokens, the one that ends it left out.
        lengths = [len(row) - len(prefix) - 1 for row in rows]
        return [found[i, :n].mean().item() for i, n in enumerate(lengths)]


def same_scores(bench: Bench) -> list[Same]:
    """Mean log p of a context's candidates by our engine and by the peer, in float32."""
    row = corpus.rows(bench.datapath, 2, 4)[1]
    [one] = engine(bench.base, False).mean_log_probs([(corpus.text_of(row), row["negatives"])])
    other = Generate(bench.base, False).candidates(corpus.text_of(row), row["negatives"])
    return [
        Same("mean log p of a reply, ours and transformers'", a, b)
        for a, b in zip(one, other, strict=True)
    ]


def samples(bench: Bench, own: Any) -> Side:
    """An engine of ours sampling the job's replies."""
    texts = contexts(bench)
    return timed(lambda n: own.sample(texts[n], SAMPLES, TOKENS, n, **SAMPLING))


def peer_samples(bench: Bench, bf16: bool) -> Side:
    """``generate`` sampling as many."""
    peer, texts = Generate(bench.base, bf16), contexts(bench)
    return timed(lambda n: peer.sample(texts[n]))


@dataclass
class Sampling:
    """Eight replies to each of 8 contexts, at most 40 tokens long."""

    name: str = "sample"
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"sampling, k = {SAMPLES}, {CONTEXTS} contexts, auto"
        peer = f"generate, num_return_sequences={SAMPLES}"
        return [
            Row(self.name, what, peer, target=Target(least=6), shown=True),
            Row("flag-precision-sampling", what, "fp32", other="fp32"),
        ]

    def same(self, bench: Bench) -> list[Same]:
        check_own_decoding(bench.base, contexts(bench)[0], False, computes_bf16("auto"))
        return same_scores(bench)

    def sides(self, bench: Bench) -> Makers:
        bf16 = computes_bf16("auto")

        return {
            "ours": lambda: samples(bench, engine(bench.base, bf16)),
            "fp32": lambda: samples(bench, engine(bench.base, False)),
            "peer": lambda: peer_samples(bench, bf16),
        }


@dataclass
class SamplingByOpenVINO:
    """The same by OpenVINO GenAI, in a process of its own, whose CPU seconds count too."""

    name: str = "sample-openvino"
    gpu: bool = False
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"sampling, k = {SAMPLES}, {CONTEXTS} contexts, auto, --engine openvino"
        peer = f"generate, num_return_sequences={SAMPLES}"
        return [
            Row(self.name, what, peer, target=Target(least=12), shown=True),
            Row("flag-engine", what, "--engine transformers", other="own"),
        ]

    def same(self, bench: Bench) -> list[Same]:
        return []  # the engine's own trial compares greedy replies, before auto takes it

    def sides(self, bench: Bench) -> Makers:
        bf16 = computes_bf16("auto")

        def opened() -> Any:
            return open_engine(str(bench.base), bench.datapath, bf16, engine="openvino")

        return {
            "ours": lambda: samples(bench, opened()),
            "own": lambda: samples(bench, engine(bench.base, bf16)),
            "peer": lambda: peer_samples(bench, bf16),
        }


@dataclass
class SamplingAgainstParlAI:
    """The same from a random GPT-2, which never ends a reply, against ParlAI's own generation."""

    few: int = 2
    name: str = "sample-parlai"
    gpu: bool = False
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"sampling, k = {SAMPLES}, {self.few} contexts, a random GPT-2, auto"
        peer = "ParlAI hugging_face/gpt2, nucleus"
        return [Row(self.name, what, peer, target=Target(least=25), shown=True)]

    def same(self, bench: Bench) -> list[Same]:
        from benchmarks.bench.training import AgainstParlAI

        return AgainstParlAI(name=self.name).same(bench)

    def sides(self, bench: Bench) -> Makers:
        base = peers.random_gpt2(bench.base, bench.folder)

        def ours_samples() -> Side:
            own, texts = engine(base, computes_bf16("auto")), contexts(bench, self.few)
            return timed(lambda n: own.sample(texts[n], SAMPLES, TOKENS, n, **SAMPLING))

        def peer_samples() -> Side:
            flags = ["--batchsize", str(self.few), "--datatype", "valid", "--inference", "nucleus"]
            flags += ["--topp", str(SAMPLING["top_p"]), "--beam-size", str(SAMPLES)]
            flags += ["--temperature", str(SAMPLING["temperature"]), "--beam-min-length", "1"]
            flags += ["--label-truncate", str(TOKENS)]
            parlai = peers.ParlAIGpt2(base, bench.folder / self.name, flags)
            prompt = open_generator(base, "--base", None, False).backbone.prompt
            pieces = [
                [prompt.tokenizer.decode(prompt.encode_context(text, 256)) for text in texts]
                for texts in contexts(bench, self.few)
            ]

            def sample(number: int) -> None:
                texts = pieces[number]
                parlai.act(parlai.batch(texts, [" "] * len(texts), "eval_labels"))

            return timed(sample)

        return {"ours": ours_samples, "peer": peer_samples}


@dataclass
class Ranking:
    """Twenty candidates of each of two contexts by mean log p."""

    few: int = 2
    name: str = "rank"
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"ranking {CANDIDATES} candidates, auto"
        return [Row(self.name, what, "a row for each candidate")]

    def same(self, bench: Bench) -> list[Same]:
        return same_scores(bench)

    def sides(self, bench: Bench) -> Makers:
        bf16 = computes_bf16("auto")
        rows = corpus.rows(bench.datapath, (bench.pairs + 1) * self.few, CANDIDATES)
        pieces = by_piece([(corpus.text_of(row), row["negatives"]) for row in rows], self.few)

        def ours_ranks() -> Side:
            own = engine(bench.base, bf16)
            return timed(lambda n: own.mean_log_probs(pieces[n]))

        def peer_ranks() -> Side:
            peer = Generate(bench.base, bf16)
            return timed(lambda n: [peer.candidates(*pair) for pair in pieces[n]])

        return {"ours": ours_ranks, "peer": peer_ranks}


class PlainJudge:
    """The classifier's network as transformers is used by hand: batches of 32 as they come."""

    def __init__(self, name: str, datapath: str):
        self.classifier = open_classifier(name, "--classifier", datapath).to(best_device())

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str], replies: Sequence[str]) -> torch.Tensor:
        classifier, found = self.classifier, []
        for start in range(0, len(texts), 32):
            inputs = classifier.tokenizer(
                list(texts[start:][:32]),
                list(replies[start:][:32]),
                padding=True,
                truncation="only_first",
                max_length=classifier.max_tokens,
                return_tensors="pt",
            ).to(classifier.device)
            logits = classifier(**inputs)
            found.append((logits / classifier.temperature).softmax(-1).cpu())
        return torch.cat(found)


@dataclass
class Judging:
    """A safety classifier's verdict on 128 replies in context."""

    name: str = "judge"
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"judging {JUDGED} replies with minilm_safety"
        return [Row(self.name, what, "batches of 32 as they come")]

    def pieces(self, bench: Bench) -> list[tuple[list[str], list[str]]]:
        """Contexts and replies of each piece of work."""
        rows = corpus.rows(bench.datapath, (bench.pairs + 1) * JUDGED)
        return [
            ([corpus.text_of(row) for row in chosen], [row["response"] for row in chosen])
            for chosen in by_piece(rows, JUDGED)
        ]

    def same(self, bench: Bench) -> list[Same]:
        own = open_classifier(bench.classifier, "--classifier", bench.datapath)
        texts, replies = self.pieces(bench)[0]
        short = [i for i, text in enumerate(texts) if "\n" not in text][:8]
        chosen = ([texts[i] for i in short], [replies[i] for i in short])
        one = own.probabilities(*chosen)
        other = PlainJudge(bench.classifier, bench.datapath).probabilities(*chosen)
        return [
            Same("a probability, ours and transformers'", a, b)
            for a, b in zip(one[:, 0].tolist(), other[:, 0].tolist(), strict=True)
        ]

    def sides(self, bench: Bench) -> Makers:
        pieces = self.pieces(bench)

        def ours_judges() -> Side:
            own = open_classifier(bench.classifier, "--classifier", bench.datapath)
            own = own.to(best_device())
            return timed(lambda n: own.probabilities(*pieces[n]))

        def peer_judges() -> Side:
            peer = PlainJudge(bench.classifier, bench.datapath)
            return timed(lambda n: peer.probabilities(*pieces[n]))

        return {"ours": ours_judges, "peer": peer_judges}


@dataclass
class Mining:
    """What mining does to a context: eight replies, their mean log p, and a judge on each."""

    few: int = 4
    name: str = "mine"
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what = f"mining, k = {SAMPLES}: sampled, scored and judged, {self.few} contexts, auto"
        return [Row(self.name, what, "generate, passes, batches of 32")]

    def same(self, bench: Bench) -> list[Same]:
        check_own_decoding(bench.base, contexts(bench, self.few)[0], computes_bf16("auto"))
        return same_scores(bench)

    def sides(self, bench: Bench) -> Makers:
        bf16 = computes_bf16("auto")
        pieces = contexts(bench, self.few)

        def ours_mines() -> Side:
            own = engine(bench.base, bf16)
            judge = open_classifier(bench.classifier, "--classifier", bench.datapath)
            judge = judge.to(best_device())

            def mine(number: int) -> None:
                texts = pieces[number]
                sampled = own.sample(texts, SAMPLES, TOKENS, number, **SAMPLING)
                replies = [[r.text for r in group if r and r.text] for group in sampled]
                own.mean_log_probs(list(zip(texts, replies, strict=True)))
                judge.probabilities(*_flat(texts, replies))

            return timed(mine)

        def peer_mines() -> Side:
            peer = Generate(bench.base, bf16)
            judge = PlainJudge(bench.classifier, bench.datapath)

            def mine(number: int) -> None:
                texts = pieces[number]
                replies = [[r for r in group if r.strip()] for group in peer.sample(texts)]
                for text, group in zip(texts, replies, strict=True):
                    peer.candidates(text, group)
                judge.probabilities(*_flat(texts, replies))

            return timed(mine)

        return {"ours": ours_mines, "peer": peer_mines}


def _flat(texts: Sequence[str], replies: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    return (
        [text for text, group in zip(texts, replies, strict=True) for _ in group],
        [reply for group in replies for reply in group],
    )
