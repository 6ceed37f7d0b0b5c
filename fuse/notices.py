"""What the streams of a run were told, and what every result must say of it: protocols of text and of
history, and streams that know what is to be foreseen.
"""

from collections.abc import Mapping

from mambavl.cache.spec import FeatureRecipe
from mambavl.configs.errors import DataError, UsageError

ORACLE_ANTICIPATION = (
    "ORACLE TEXT IN ANTICIPATION: the questions were written from the very actions that are to be foreseen. "
    "This is an upper bound, no forecast; never compare it with predicted or generic text"
)

ACTION_IN_ANTICIPATION = (
    "THE ACTION ITSELF IN ANTICIPATION: the features were extracted under sampling.rule inavit, which shows "
    "frames of the very action that is to be foreseen and none of before it. This is no forecast"
)

ORACLE_HISTORY = (
    "ORACLE HISTORY: what was done before is told by its true labels. They do not hold the action that is "
    "scored, but no camera gives them; never compare this with a predicted history or with video"
)

# text protocols that know nothing of the action that is to be foreseen
SAFE_IN_ANTICIPATION = ("predicted", "generic", "none", "absent")

Recipes = Mapping[str, FeatureRecipe]  # stream -> how its features were made


def text_protocol(recipes: Recipes, modalities: Mapping[str, str]) -> str:
    """oracle, predicted, generic, none (empty texts); `unknown`: its store names no questions; `absent`: no
    text. Raises DataError where the streams' differ. modalities: of each stream.
    """
    protocols = set()
    for name, recipe in recipes.items():
        if recipe.questions is not None:
            protocols.add(recipe.questions.protocol)
        elif modalities[name] == "text" and recipe.history is None:
            protocols.add("unknown")
    return _only("text", protocols)


def history_protocol(recipes: Recipes) -> str:
    """oracle, predicted; `absent`: no stream tells of past actions. Raises DataError where the streams'
    differ.
    """
    return _only("history", {recipe.history.protocol for recipe in recipes.values() if recipe.history})


def _only(what: str, protocols: set[str]) -> str:
    if len(protocols) > 1:
        listed = ", ".join(sorted(protocols))
        raise DataError(f"the {what} streams were made under different protocols: {listed}")
    return protocols.pop() if protocols else "absent"


def notice_of(recipes: Recipes, text: str, history: str, *, allow_oracle: bool) -> str | None:
    """What every result must say aloud; None where there is nothing. text, history: their protocols.

    Raises DataError where streams were made for different tasks, or a history reaches beyond what the others
    may see; UsageError for text that may tell the answer, unless it was asked for.
    """
    samplings = {name: recipe.sampling for name, recipe in recipes.items() if recipe.sampling}
    tasks = {name: str(one["task"]) for name, one in samplings.items() if "task" in one}
    if len(set(tasks.values())) > 1:
        listed = ", ".join(f"{name} for {task}" for name, task in sorted(tasks.items()))
        raise DataError(
            f"the streams were extracted for different tasks ({listed}): one of them sees the action itself"
        )
    _refuse_later_history(recipes)
    said = []
    if "inavit" in {one.get("rule") for one in samplings.values()}:
        said.append(ACTION_IN_ANTICIPATION)
    # a history beside text alone is of what is to come: no stream shows the action
    is_anticipation = "anticipation" in tasks.values() or (history != "absent" and not tasks)
    if is_anticipation and text not in SAFE_IN_ANTICIPATION:
        if not allow_oracle:
            raise UsageError(
                f"the features are for anticipation and the text protocol is {text}: such "
                "questions may be written from the very action that is to be foreseen. Use predicted, "
                "generic or none, or measure an upper bound with --set data.allow_oracle=true"
            )
        said.append(ORACLE_ANTICIPATION)
    if history == "oracle":
        said.append(ORACLE_HISTORY)
    return ". ".join(said) or None


def _refuse_later_history(recipes: Recipes) -> None:
    """A history ends where what the other streams see ends, or before: else the score is of another task."""
    taus = {}  # stream -> seconds before the action at which it ends
    for name, recipe in recipes.items():
        if recipe.history:
            taus[name] = recipe.history.tau_a
        elif recipe.sampling and recipe.sampling.get("task") == "anticipation":
            tau = recipe.sampling.get("tau_a")
            if isinstance(tau, (int, float)):
                taus[name] = tau
    for name, recipe in recipes.items():
        if recipe.history and recipe.history.tau_a < max(taus.values()):
            longest = max(taus, key=lambda stream: taus[stream])
            raise DataError(
                f"stream {name} tells of actions up to {taus[name]:g} s before the row, stream {longest} "
                f"ends {taus[longest]:g} s before it; make the history again with --tau {taus[longest]:g}"
            )
