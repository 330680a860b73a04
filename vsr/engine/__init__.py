"""What no library has: vision once a video, one prefill a prompt, shared-prefix log-probabilities, many questions."""

from vsr.engine.answering import answer_many
from vsr.engine.features import FeatureCache
from vsr.engine.inputs import Prompt
from vsr.engine.logps import group_logps, packed_logps
from vsr.engine.rollouts import rollouts

__all__ = ["FeatureCache", "Prompt", "answer_many", "group_logps", "packed_logps", "rollouts"]
