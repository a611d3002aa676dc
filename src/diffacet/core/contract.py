"""What a model is, and what the rest of the house may ask of it.

A model is an `nn.Module` without a base class. It has the verbs of its task, and `loss` when it is
trained. `Card` describes it to the table in `models/__init__.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core.batch import Batch, ClickBatch, Histories, SequenceBatch
from diffacet.core.papers import Paper
from diffacet.errors import BadSetting

STRICT = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)
"""Every settings dataclass uses it: without it an unknown key would be dropped silently."""

INFERENCE = "inference"
"""Marks a setting, inside Annotated, that may be changed on a trained model: it shapes no weight."""

Task = Literal["matching", "next-item", "collaborative", "click"]
"""The protocol that a model is compared in, if no other is asked for: the last part of a history, each next item of
it, the rest of a row, or the click on an item that was shown."""


@plain_dataclass(frozen=True)
class Search:
    """Where `diffacet tune` looks for a setting; stands inside its Annotated, beside Field.

    Attributes:
        low: smallest value, for a number.
        high: largest value, for a number.
        log: whether values are drawn evenly on a logarithmic scale.
        choices: the values, for anything else.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()


IntArray = NDArray[np.int64]


Dropout = Annotated[float, Field(ge=0, lt=1, description="dropout on the history's embeddings"), Search(0.0, 0.5)]
"""A setting that most models have."""

ItemDropout = Annotated[
    float, Field(ge=0, lt=1, description="share of the history left out in training"), Search(0.0, 0.5)
]
"""A setting that most models have; see `interests.thin`."""

OldestWeight = Annotated[
    float,
    Field(ge=0, le=1, title="w_min", description="weight of a user's oldest item; those after it rise evenly to 1"),
    Search(choices=(1.0, 0.5, 0.3, 0.1)),
]
"""The time weights of T-DiffRec (Eq. 16), which other models may have as well; 1: all items count the same."""


@runtime_checkable
class Trained(Protocol):
    """A model with parameters to learn."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Weighted terms, each a scalar; their sum is minimised, and each is logged by its name."""


@plain_dataclass(frozen=True)
class Pace:
    """How some of a model's parameters move, where that is not as the training settings say.

    Attributes:
        names: beginnings of parameter names.
        rate: factor on the learning rate.
        optimizer: None: the training settings' one; "sgd": a plain step down the gradient.
        weight_decay: None: the training settings' one.
        again: these parameters take this step after their usual one, from the same gradient.
    """

    names: tuple[str, ...]
    rate: float = 1.0
    optimizer: Literal["sgd"] | None = None
    weight_decay: float | None = None
    again: bool = False


@runtime_checkable
class Paced(Protocol):
    """A model whose parameters do not all move alike."""

    def paces(self) -> Sequence[Pace]:
        """What differs; a parameter that no pace names moves by the training settings."""


@runtime_checkable
class Matcher(Protocol):
    """Vectors against a catalogue: an item's score is its largest inner product with the K vectors."""

    def interests(self, history: Histories) -> Tensor:
        """(B, K, d); row b depends on its own history and case only."""

    def catalogue(self) -> Tensor:
        """(N + 1, d) item vectors; row 0 is padding and never a candidate."""


@runtime_checkable
class Scorer(Protocol):
    """Scores over the whole catalogue, for models whose score is no inner product."""

    def scores(self, history: Histories) -> Tensor:
        """(B, N + 1); column 0 is padding and never a candidate."""


@runtime_checkable
class Clicker(Protocol):
    """The probability that a shown item is clicked."""

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds; entry b depends on sample b only, and not on the label."""


@runtime_checkable
class Diagnosed(Protocol):
    """A model that can report on itself while it is trained."""

    def diagnose(self, batch: Any) -> dict[str, Tensor]:
        """Scalars for the log, computed without gradient at every validation."""


@plain_dataclass(frozen=True)
class ClickFields:
    """What a click model may know of its data.

    Attributes:
        names: of the F fields of a behaviour; the first is the finest, mostly the item.
        sizes: values of each, with padding 0, unknown 1 and the target's mark 2.
        shared: whether the target has the field, too; else it carries the mark 2 there.
        other_names: of the G further fields of a sample.
        other_sizes: values of each, likewise.
        numeric: D, numbers of a sample.
        timed: whether the times of behaviours are real, so that ages mean something.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    shared: tuple[bool, ...]
    other_names: tuple[str, ...] = ()
    other_sizes: tuple[int, ...] = ()
    numeric: int = 0
    timed: bool = True


@plain_dataclass(frozen=True)
class Facts:
    """All that a constructor may know of the data.

    Attributes:
        n_items: N, items in the catalogue; their numbers are 1..N.
        length: L, items of a history that a model reads; 0: all.
        train_items: item numbers of all training sequences, one after another (int64).
        train_offsets: sequence u is train_items[train_offsets[u]:train_offsets[u + 1]] (int64).
        train_users: user number of each training sequence (int64).
        n_users: users of the log, in training or not; their numbers are 0..n_users - 1.
        clusters: (N + 1,) int64 cluster of each item, -1 for padding; empty where a model asks for none.
        click: the fields of a click log; None for all other tasks.
    """

    n_items: int
    length: int
    train_items: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    train_offsets: IntArray = field(default_factory=lambda: np.zeros(1, np.int64))
    train_users: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    n_users: int = 0
    clusters: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    click: ClickFields | None = None

    def without_training(self) -> "Facts":
        """What is known when a run is loaded, far from its data: all sizes, and no sequence."""
        return Facts(self.n_items, self.length, n_users=self.n_users, clusters=self.clusters, click=self.click)

    def click_fields(self) -> ClickFields:
        """The fields of a click log; raises BadSetting when the data are none."""
        if self.click is None:
            raise BadSetting("click models learn from showings with labels; 'diffacet import-clicks' makes such data")
        return self.click

    def item_counts(self) -> IntArray:
        """(N + 1,) training interactions of each item; 0 for padding."""
        return np.bincount(self.train_items, minlength=self.n_items + 1)


class StreamedFacts(Facts):
    """Facts of training sequences that are read piece by piece; a model that wants all of them at once is refused."""

    def __getattribute__(self, name: str) -> Any:
        """Raises BadSetting for the training sequences."""
        if name in ("train_items", "train_offsets", "train_users"):
            raise BadSetting(
                "this model looks at all training sequences at once, and sampling=blocks never has them all in memory; "
                "set sampling=drawn, or train a model that learns from batches only, such as dmi"
            )
        return super().__getattribute__(name)


@dataclass(frozen=True, config=STRICT)
class Training:
    """How a model is trained: batches, negatives, optimiser, validation. Defaults: the published protocol's."""

    lr: Annotated[float, Field(gt=0, description="Adam's learning rate"), Search(5e-4, 5e-3, log=True)] = 0.002
    anneal: Annotated[
        float, Field(ge=0, le=1, description="share of max_steps, at the end, in which lr falls linearly to 0")
    ] = 0.0
    optimizer: Annotated[Literal["adam", "adamax"], Field(description="how parameters follow the gradient")] = "adam"
    weight_decay: Annotated[
        float, Field(ge=0, description="decay of all weights: decoupled with adam (AdamW), in the gradient with adamax")
    ] = 0.0
    batch_size: Annotated[int, Field(ge=1, description="B, users (or interactions) in a batch")] = 128
    max_steps: Annotated[int, Field(ge=0, description="training steps at most")] = 1_000_000
    max_epochs: Annotated[
        int | None, Field(ge=0, description="passes over the training rows at most; none: max_steps alone decides")
    ] = None
    length: Annotated[int, Field(ge=0, description="L, most recent items of a history that are read; 0: all")] = 20
    first_target: Annotated[
        int, Field(ge=1, description="first position of a sequence that may be a training target")
    ] = 4
    negatives: Annotated[
        int,
        Field(ge=0, description="M, negatives that a batch shares; 0: every item (full softmax)"),
        Search(choices=(320, 1280, 5120)),
    ] = 1280
    sampler: Annotated[
        Literal["uniform", "log-uniform"], Field(description="law of the negatives; log-uniform over popularity rank")
    ] = "uniform"
    unique_negatives: Annotated[bool, Field(description="draw negatives without repeats")] = False
    correction: Annotated[bool, Field(description="subtract log expected counts from the logits")] = False
    mask_hits: Annotated[bool, Field(description="a negative that is a row's target does not count for the row")] = (
        False
    )
    own_negatives: Annotated[
        bool, Field(description="M negatives for each target, uniform over what its user has not met; false: shared")
    ] = False
    sampling: Annotated[
        Literal["drawn", "epochs", "blocks"],
        Field(
            description="rows of a batch: drawn anew each step; each pair (window) once an epoch, in random order; or "
            "each user once an epoch, in blocks of users that are read together, for a log that memory cannot hold"
        ),
    ] = "drawn"
    targets: Annotated[
        Literal["own", "one", "every"],
        Field(description="one target for a history, or every position of a window; own: as the model is trained"),
    ] = "own"
    weighting: Annotated[
        Literal["user", "target"], Field(description="with every position a target: which of them weigh the same")
    ] = "user"
    validate_every: Annotated[int, Field(ge=1, description="steps between two validations")] = 1000
    validate_epochs: Annotated[
        int | None, Field(ge=1, description="passes between two validations, instead of validate_every")
    ] = None
    validate_cases: Annotated[
        int | None, Field(ge=1, description="cases of validation at most, drawn by seed; none: all")
    ] = None
    patience: Annotated[
        int, Field(ge=0, description="stop when more than this many validations in a row bring nothing new")
    ] = 50
    metric: Annotated[
        str,
        Field(
            pattern=r"^([a-z_]+@[1-9][0-9]*|auc|gauc)$",
            description="validation metric that chooses the best checkpoint",
        ),
    ] = "recall@50"
    clip: Annotated[
        float | None, Field(gt=0, description="global norm that the gradient is clipped to; none: not clipped")
    ] = None
    save_every: Annotated[
        int | None, Field(ge=1, description="steps between two checkpoints without validation; none: validations only")
    ] = None
    item_updates: Annotated[
        Literal["auto", "dense", "row-sparse"],
        Field(description="Adam on the item table: every row, or touched rows; auto: row-sparse from 100,000 items"),
    ] = "auto"
    precision: Annotated[
        Literal["float32", "bfloat16"], Field(description="of matrix products on CUDA; the CPU always uses float32")
    ] = "float32"
    order: Annotated[
        Literal["shuffled", "time"], Field(description="click models: an epoch in a seeded order, or as shown")
    ] = "shuffled"
    seed: Annotated[int, Field(ge=0, description="of initial weights, batches, negatives, noise")] = 0


@plain_dataclass(frozen=True)
class Preset:
    """Settings that belong together.

    Attributes:
        model: the model's own settings (its frozen dataclass).
        training: how it is trained.
        source: where the numbers come from.
    """

    model: Any
    training: Training
    source: str


@plain_dataclass(frozen=True)
class Card:
    """A model as the table knows it.

    Attributes:
        name: the name on the command line.
        build: (settings, Facts) -> the model, with its initial weights.
        config: the settings dataclass.
        task: what the model can be asked.
        summary: one line for a list of models.
        paper: the paper to cite.
        presets: by name; "best" is the default.
        batch: the form in which it is trained.
        also: other forms in which it can be; `Training.targets` chooses.
        search: where `diffacet tune` looks for settings of the training, if elsewhere than they say; None: nowhere.
        workers: whether several processes may train it together, to the weights of one but for rounding.
    """

    name: str
    build: Callable[[Any, Facts], nn.Module]
    config: type[Any]
    task: Task
    summary: str
    paper: Paper
    presets: Mapping[str, Preset]
    batch: type[Batch] = SequenceBatch
    also: tuple[type[Batch], ...] = ()
    search: Mapping[str, Search | None] = field(default_factory=dict)
    workers: bool = False
