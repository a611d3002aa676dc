"""Settings that models of DiffRec's line share: the chain, how its steps count, and how it is walked at inference.

W. Wang et al., "Diffusion Recommender Model", SIGIR 2023 (key `diffrec`), whose equations these are; searched
values are those of its Sec. 4.1.3 and of the released settings.
"""

from typing import Annotated

from pydantic import Field

from diffacet.core.contract import INFERENCE, Search
from diffacet.core.diffusion import Kind

EmbSize = Annotated[int, Field(ge=2, title="d_e", description="width of the step embedding")]
Schedule = Annotated[Kind, Field(description="how noise grows with the step; Eq. 4 is linear-var")]
NoiseScale = Annotated[
    float,
    Field(ge=0, title="s", description="scale of the noise (Eq. 4); 0: none"),
    Search(choices=(0.0, 1e-4, 1e-3, 0.005, 0.01, 0.1, 0.5)),
]
NoiseMin = Annotated[float, Field(gt=0, title="α_min", description="lower bound of the noise (Eq. 4)")]
NoiseMax = Annotated[float, Field(gt=0, title="α_max", description="upper bound of the noise (Eq. 4)")]
FirstBeta = Annotated[
    float | None,
    Field(gt=0, le=1, title="β_1", description="overwrites the first variance, as the paper's code does; none: Eq. 4"),
]
Reweight = Annotated[
    bool, Field(description="weigh step t by SNR(t - 1) - SNR(t) (Eq. 11)"), Search(choices=(True, False))
]
Importance = Annotated[
    bool, Field(description="draw steps by the size of their losses (Eq. 13)"), Search(choices=(True, False))
]
SamplingSteps = Annotated[
    int, Field(ge=0, title="T'", description="noise steps before the reverse chain, inferring"), INFERENCE
]
SamplingNoise = Annotated[bool, Field(description="add the posterior's noise, inferring"), INFERENCE]
NoiseSeed = Annotated[int, Field(ge=0, description="of the noise that inference draws"), INFERENCE]
