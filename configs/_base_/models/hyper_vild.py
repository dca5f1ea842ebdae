"""What turns a ViLD into one whose added classes are made from boxes: settings for its model, and of its training.

`hyper` goes into `model`, `episodes` around the images' dataset. Everything but the code generator is frozen.
"""

from mmengine.dataset import InfiniteSampler

from ovd.data.episodes import EpisodeDataset
from ovd.models.hyper_roi import EpisodeLoss, HyperViLD, ResidualCodes

hyper = dict(
    type=HyperViLD, distillation=0.0, frozen=["backbone", "neck", "rpn_head", "roi_head"],
    code_generator=dict(type=ResidualCodes, hidden=256, generator=None, residual=True),
    episode_loss=dict(type=EpisodeLoss, kind="softmax"))
episode_sampler = dict(type=InfiniteSampler, shuffle=True)
episodes = dict(type=EpisodeDataset, n_way=5, k_shot=(1, 5), n_query=1, others="keep")
