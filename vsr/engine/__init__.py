"""What no library has: vision once a video, one prefill a prompt, shared-prefix log-probabilities, many questions."""

from vsr.engine.decoding import answer_scenes, rollouts
from vsr.engine.inputs import FeatureCache, Prompt
from vsr.engine.logps import packed_logps

__all__ = ["FeatureCache", "Prompt", "answer_scenes", "packed_logps", "rollouts"]
