"""Mix-CPT: learn a domain and keep the general, then teach the format with few samples (Jiang et al., ICLR 2025).

arXiv:2407.10804. Three stages, one model:

1. *Knowledge mixture.* The domain's texts, general data and preferred responses are shuffled and read as
   plain text, without a chat template, the loss on all tokens. Beside the next-token loss stands logit swap
   self-distillation (LSSD): the model's own logits l from before, those of its likeliest and of the true
   token y exchanged, are its teacher at every position,

       L = L_next + alpha * KL(softmax(swap(l, y)) || model)

   so the true token becomes the likeliest, and what else the model knew about the position stays.
2. *Instruction format.* Dialogues, and examples to keep, are scored by the stage-1 model; the few that carry
   format rather than knowledge are learned in the chat template, the loss on responses alone.
3. *Preferences.* DPO on the best-scored pairs, the stage-2 model as reference; left out where there are none.

The record says what it is for: texts, facts and examples to learn are the domain; dialogues to learn and
all that is to keep are general; preferences are the third part of the mixture. The domain is read whole, the
rest as far as ``ratio`` asks for it and no text twice in an epoch. Every text is a row of its own instead of
packed with others, so that no prediction crosses the border of a document.

Use when: a model should read a domain's documents and stay a general model; there are texts of the domain
but no instructions; continual pre-training spoils what the model could do before.

Needs: texts or facts to learn; general data to keep make the mixture. Guarantees: step 0 equals the base.

There is no official code. The weight alpha, the mixture's proportions and the formula of the format alignment
score are not in the paper; ours are settings with their reasons. The rejected responses are not read in
stage 1. The paper trains every weight; ``parameters=adapter`` trains a low-rank difference instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keeps.contracts import Run
from keeps.data.records import Dialogue, Example, Preference, RecordSet
from keeps.errors import EmptySetError, SettingsError
from keeps.models.changes import AdapterChange, CheckpointChange
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.models.scoring import text_config
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings, train_and_write, wrap
from keeps.training.batches import TokenizedExample
from keeps.training.distilled import DistilledLoss, LiveTeacher
from keeps.training.loop import train
from keeps.training.losses import PackedLoss
from keeps.training.mixture import mixture, plain_examples, sample_of
from keeps.training.preferences import Pair, PreferenceLoss, response_logprobs
from keeps.training.reference import Reference
from keeps.training.selection import SCORES, Sample, chosen_once, forget_choice, select
from keeps.training.stages import stage
from keeps.training.steps import Loss
from keeps.training.whole import write_whole

ADAPTER_ONLY = ("rank", "alpha", "targets", "dropout", "rank_stabilised", "rank_pattern")
DISTILLATION = ("swap", "scope", "temperature", "next_token", "teacher")
KNOWLEDGE_ONLY = ("ratio", "window", "distil", *DISTILLATION)
FORMAT_ONLY = ("sft_samples", "sft_learning_rate", "sft_epochs", "dpo_samples", "dpo_learning_rate", "dpo_epochs")
FORMAT_ONLY += ("dpo_beta", "score")


@dataclass(frozen=True, kw_only=True)
class MixCPTSettings(AdapterSettings):
    """Settings of Mix-CPT. Epochs and steps are those of stage 1."""

    # The card's 1e-5 is for models of 8 billion parameters; small ones take that of full fine-tuning.
    learning_rate: float = setting(5e-5, "largest learning rate of stage 1; ten times this suits an adapter", gt=0)
    parameters: str = setting("full", "Train every weight, as published, or an adapter", choices=("full", "adapter"))
    stages: str = setting(
        "all",
        "Stage 1 alone (knowledge), stages 2 and 3 alone (format), or all",
        choices=("all", "knowledge", "format"),
    )
    distil: float = setting(1.0, "Weight of the self-distillation; 0 is plain continual pre-training", ge=0)
    swap: bool = setting(True, "Exchange the teacher's logits of its likeliest and of the true token")
    scope: str = setting("all", "Distil on all texts, or on the general ones alone", choices=("all", "general"))
    ratio: tuple[float, ...] = setting(
        (5.0, 4.0, 1.0), "Tokens of the mixture: domain, general data, preferred responses"
    )
    window: int = setting(512, "Tokens a piece of running text at most", ge=2)
    temperature: float = setting(1.0, "Temperature of both sides of the distillation", gt=0, advanced=True)
    next_token: bool = setting(True, "The next-token loss beside the distillation; no: that alone", advanced=True)
    teacher: str = setting(
        "auto",
        "Keep the old model's hidden states (stored), run it again (live), or whichever takes less memory",
        choices=("auto", "stored", "live"),
        advanced=True,
    )
    score: str = setting("ppl_easy", "How samples are chosen for stages 2 and 3", choices=SCORES)
    sft_samples: int = setting(1000, "Samples of stage 2 at most; 0 leaves it out", ge=0)
    sft_learning_rate: float = setting(2e-5, "Largest learning rate of stage 2", gt=0)
    sft_epochs: int = setting(2, "Passes over the samples of stage 2", ge=1)
    dpo_samples: int = setting(1000, "Pairs of stage 3 at most; 0 leaves it out", ge=0)
    dpo_learning_rate: float = setting(5e-7, "Largest learning rate of stage 3", gt=0)
    dpo_epochs: int = setting(1, "Passes over the pairs of stage 3", ge=1)
    dpo_beta: float = setting(0.1, "How far stage 3 holds the model to that of stage 2", gt=0)

    def check(self) -> None:
        """Refuse proportions that are none, and settings of what does not take place."""
        if len(self.ratio) != 3 or not self.ratio[0] > 0 or min(self.ratio) < 0:
            what = f"ratio is {', '.join(f'{part:g}' for part in self.ratio)}"
            mend = "give three numbers, such as 5,4,1: the first above 0, the others not below it"
            raise SettingsError(what, where="MixCPT", mend=mend)
        if not self.next_token and self.scope == "general":
            what = "without the next-token loss a domain that is not distilled would not be learned"
            raise SettingsError(what, where="MixCPT", mend='set scope to "all" or next_token to yes')
        self._refuse(ADAPTER_ONLY, self.parameters == "full", 'parameters is "full"')
        self._refuse(DISTILLATION, self.distil == 0, "distil is 0")
        self._refuse(KNOWLEDGE_ONLY, self.stages == "format", 'stages is "format"')
        self._refuse(FORMAT_ONLY, self.stages == "knowledge", 'stages is "knowledge"')

    def _refuse(self, names: Sequence[str], idle: bool, because: str) -> None:
        defaults = {info.name: info.default for info in self.fields()}
        for name in names if idle else ():
            if getattr(self, name) != defaults[name]:
                mend = f"leave {name} out, or change what switches it off"
                raise SettingsError(f"{name} would do nothing, since {because}", where="MixCPT", mend=mend)

    def check_model(self, model: LanguageModel) -> None:
        """Refuse layers that do not fit the adapter, and a model that puts a template where none belongs."""
        if self.parameters == "adapter":
            super().check_model(model)
        if model.encoder.templated:
            what = "the model's prompts go through its chat template, and stage 1 reads plain text"
            raise SettingsError(what, where=model.name, mend='load it with chat="never"')
        if self.score == "fas" and not getattr(model.tokenizer, "chat_template", None):
            what = "the format alignment score compares with a chat template, and the tokenizer has none"
            raise SettingsError(what, where=model.name, mend='set score to "ppl_easy"')


@dataclass(frozen=True)
class _Material:
    """Everything that is read, as tokens."""

    texts: list[TokenizedExample]
    samples: list[Sample]  # of stage 2
    pairs: list[Sample]  # of stage 3


@method(
    "mix_cpt",
    verb="adapt",
    paper="arXiv:2407.10804",
    summary="Continual pre-training on a knowledge mixture, held back by swapped logits; then a few samples of format.",
    needs=("learn",),
    uses=("keep",),
)
class MixCPT:
    """Knowledge mixture continual pre-training and efficient format alignment."""

    Settings = MixCPTSettings

    def __init__(self, settings: MixCPTSettings) -> None:
        self.settings = settings

    @staticmethod
    def forms(settings: MixCPTSettings) -> tuple[str, ...]:
        """A whole checkpoint, or an adapter."""
        return ("merged",) if settings.parameters == "full" else ("lora", "merged")

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange | CheckpointChange:
        """Run the stages and write a checkpoint, or the peft folder of an adapter."""
        self.settings.check_model(model)
        material = self.material(model, learn, keep, run)
        data = {"learn": learn.fingerprint} | ({} if keep is None else {"general": keep.fingerprint})

        def training(module: Any) -> None:
            self.train(model, module, material, run)

        if self.settings.parameters == "full":
            return write_whole(
                model, lambda module, _: training(module), self.settings, run, method="mix_cpt", data=data
            )
        wrapped = wrap(model, self.settings, seed=run.seed)
        return train_and_write(
            model, wrapped, learn, self.settings, run, method="mix_cpt", data=data, training=training
        )

    def material(self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None, run: Run) -> _Material:
        """The mixture of stage 1 and the samples of the later ones.

        Raises:
            EmptySetError: there is nothing for the first stage that was asked for.
            ContextLengthError: a record is longer than the model's context.
        """
        s, general = self.settings, list(keep or ())
        dialogues: list[Any] = [r for r in (*learn, *general) if isinstance(r, Dialogue)]
        dialogues += [r for r in general if isinstance(r, Example)]
        preferences = [r for r in (*learn, *general) if isinstance(r, Preference)]
        texts: list[TokenizedExample] = []
        if s.stages != "format":
            domain = [r for r in learn if not isinstance(r, (Dialogue, Preference))]
            rest = [r for r in learn if isinstance(r, Dialogue)] + [r for r in general if not isinstance(r, Preference)]
            if not domain:
                what = "there is nothing of a domain to learn"
                raise EmptySetError(what, where=learn.source, mend="give texts, facts or examples beside the dialogues")
            streams = [plain_examples(model, records, s.window) for records in (domain, rest, preferences)]
            texts, tokens = mixture(streams, s.ratio, seed=run.seed)
            for name, count in zip(("domain", "general", "preferred"), tokens, strict=True):
                run.measures[f"{name}_tokens"] = count
        elif not dialogues and not preferences:
            mend = "give dialogues, examples to keep or preferences"
            raise EmptySetError("there is nothing to teach a format with", where=learn.source, mend=mend)
        if s.stages == "knowledge":
            return _Material(texts, [], [])
        samples = [sample_of(model, record) for record in (dialogues if s.sft_samples else ())]
        pairs = [sample_of(model, record) for record in (preferences if s.dpo_samples else ())]
        return _Material(texts, samples, pairs)

    # --- the stages ---------------------------------------------------------------------------

    def train(self, model: LanguageModel, module: Any, material: _Material, run: Run) -> None:
        """All stages, in place; each has its own checkpoint and continues from the one before."""
        s, pad = self.settings, model.encoder.pad_token_id
        forget_choice(run)
        if material.texts:
            loss = self.loss(model, module, material.texts, run) if s.distil > 0 else PackedLoss
            train(module, material.texts, s, run, pad_token_id=pad, loss=loss, checkpoint="checkpoint/stage1")
        if s.stages == "knowledge":
            return
        chosen = self.selection(module, material, pad, run)
        if chosen["sft"]:
            examples = [material.samples[number].templated[0] for number in chosen["sft"]]
            settings = replace(s, learning_rate=s.sft_learning_rate, epochs=s.sft_epochs, steps=None, stop_loss=None)
            with stage(run, "sft") as part:
                train(module, examples, settings, part, pad_token_id=pad, checkpoint="checkpoint/stage2")
        elif s.sft_samples:
            run.progress.message("no dialogues to learn and no examples to keep: the instruction format is left out")
        if chosen["dpo"]:
            self._prefer(module, [Pair(*material.pairs[number].templated) for number in chosen["dpo"]], pad, run)

    def loss(self, model: LanguageModel, module: Any, texts: Sequence[TokenizedExample], run: Run) -> Loss:
        """The loss of stage 1, with the model as it is now for its teacher."""
        s, teacher = self.settings, self.teacher(model, module, texts, run)
        options: dict[str, Any] = {"temperature": s.temperature, "swap": s.swap, "next_token": s.next_token}
        options["general_only"] = s.scope == "general"
        return lambda trained: DistilledLoss(trained, teacher, alpha=s.distil, **options)

    def teacher(self, model: LanguageModel, module: Any, texts: Sequence[TokenizedExample], run: Run) -> Any:
        """The unchanged model: its hidden states, unless these would be larger than a copy of it."""
        width = int(text_config(model.model).hidden_size)
        states = sum(example.answer_tokens for example in texts) * width
        copied = 0 if self.settings.parameters == "adapter" else sum(p.numel() for p in module.parameters())
        limit = copied or 1 << 28  # an adapter is switched off at no cost in memory: 1 GB of states saves a pass
        stored = self.settings.teacher == "stored" or (self.settings.teacher == "auto" and states <= limit)
        run.measures["live_teacher"] = not stored
        if not stored:
            return LiveTeacher(module)
        return Reference.of(model, texts, run=run, head_changes=self.settings.parameters == "full")

    def selection(self, module: Any, material: _Material, pad: int, run: Run) -> Mapping[str, list[int]]:
        """Numbers of the samples for stage 2 (``sft``) and of the pairs for stage 3 (``dpo``)."""
        s = self.settings
        wanted = {"sft": (material.samples, s.sft_samples), "dpo": (material.pairs, s.dpo_samples)}
        return chosen_once(
            run, lambda: {name: select(module, *each, s.score, pad, run.seed) for name, each in wanted.items()}
        )

    def _prefer(self, module: Any, pairs: list[Pair], pad: int, run: Run) -> None:
        """Stage 3; what the model says now is the reference, two numbers a pair."""
        s = self.settings
        both = response_logprobs(module, [each for pair in pairs for each in (pair.chosen, pair.rejected)], pad)
        settings = replace(s, learning_rate=s.dpo_learning_rate, epochs=s.dpo_epochs, steps=None, stop_loss=None)
        options: dict[str, Any] = {"beta": s.dpo_beta, "pad_token_id": pad}

        def loss(trained: Any) -> PreferenceLoss:
            return PreferenceLoss(trained, pairs, both.view(-1, 2), **options)

        examples = [pair.example(number) for number, pair in enumerate(pairs)]
        with stage(run, "dpo") as part:
            train(module, examples, settings, part, pad_token_id=pad, loss=loss, checkpoint="checkpoint/stage3")
