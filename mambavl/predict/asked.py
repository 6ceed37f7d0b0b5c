"""The questions that go with a video: nobody has narrated it, so none can be written from its labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambavl.configs.errors import UsageError
from mambavl.extract import MASK
from mambavl.extract.questions import QUESTION_KEYS, Question, write_questions
from mambavl.extract.questions.file import Protocol
from mambavl.extract.questions.forms import KINDS, Kind
from mambavl.extract.questions.template import BACKEND, EMPTY, GENERIC, PHRASINGS, PROMPT_VERSION
from mambavl.predict.trained import Trained

# what an oracle question is where every word is masked and no hint is given
MASKED: dict[Kind, str] = {kind: PHRASINGS[kind][0][0].format(f"{MASK} {MASK}") for kind in KINDS}
BY_NAME: dict[str, tuple[Protocol, dict[Kind, str]]] = {
    "generic": ("generic", GENERIC),
    "masked": ("generic", MASKED),
    "none": ("none", EMPTY),
}
HOW = (
    "--questions generic asks the same two of every video, --questions masked asks as oracle questions do "
    "where every word is masked, --questions none asks nothing; or give your own: "
    "--questions 'verb=What is done?' --questions 'noun=With what?'"
)


@dataclass(frozen=True)
class Asked:
    """The same questions at every moment. `origin`: generic, masked, none, or `given` by the user."""

    protocol: Protocol
    origin: str
    texts: dict[Kind, str]

    def write(self, path: Path, narration_id: str) -> None:
        """A question file of one row."""
        keys = dict(zip(KINDS, QUESTION_KEYS, strict=True))
        question = Question(
            narration_id=narration_id,
            verb_question=self.texts["verb"],
            noun_question=self.texts["noun"],
            protocol=self.protocol,
            backend=BACKEND if self.origin in ("generic", "none") else self.origin,
            prompt_version=PROMPT_VERSION,
            masked={key: [] for key in keys.values()},
            hint=dict.fromkeys(keys.values()),
        )
        write_questions(path, [question])


def asked(trained: Trained, given: Sequence[str]) -> Asked | None:
    """The questions of a run's text streams, None for a run without any. given: `generic`, `masked`, `none`,
    or `verb=...` and `noun=...`; by default what the run was trained on, where that is the same for all.

    Raises UsageError where the run was trained on questions that nobody can ask of this video.
    """
    texts = [name for name, stream in trained.streams.items() if stream.is_text]
    if not texts:
        if given:
            raise UsageError(f"--questions: {trained.run} reads no text, only {', '.join(trained.streams)}")
        return None
    if not given:
        return _as_trained(trained, texts[0])
    if len(given) == 1 and given[0] in BY_NAME:
        protocol, fixed = BY_NAME[given[0]]
        return Asked(protocol, given[0], dict(fixed))
    own: dict[Kind, str] = {}
    for text in given:
        kind, equals, question = text.partition("=")
        kinds: dict[str, Kind] = {known: known for known in KINDS}
        if not equals or kind not in kinds or not question.strip():
            raise UsageError(f"--questions {text!r}: {HOW}")
        if kinds[kind] in own:
            raise UsageError(f"--questions: asks the {kind} twice; {HOW}")
        own[kinds[kind]] = question
    read = {trained.streams[name].source.level.partition("_question")[0] for name in texts}
    if missing := [kind for kind in KINDS if kind in read and kind not in own]:
        raise UsageError(f"--questions: asks nothing about the {missing[0]}; {HOW}")
    return Asked("generic", "given", {**EMPTY, **own})


def _as_trained(trained: Trained, stream: str) -> Asked:
    made = trained.streams[stream].store.spec.recipe.questions
    protocol = made.protocol if made else "unknown"
    if protocol == "none":
        return Asked("none", "none", dict(EMPTY))
    if made and protocol == "generic" and (made.backend, made.prompt_version) == (BACKEND, PROMPT_VERSION):
        return Asked("generic", "generic", dict(GENERIC))
    why = {
        "oracle": "questions written from what the narrator said of each action (oracle)",
        "predicted": "questions written from another recogniser's guesses at each action (predicted)",
        "generic": f"two questions of {made.backend or 'unknown origin'} that its store does not repeat"
        if made
        else "",
    }.get(protocol, "questions of unknown origin")
    raise UsageError(
        f"{trained.run}: was trained on {why}, and nobody has written such for this video. Say what to ask "
        f"in their place, and expect less of the head than its result says: {HOW}"
    )
