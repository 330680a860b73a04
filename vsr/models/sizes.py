"""Sizes of the models: the miniature's, and those of Qwen2-VL as their config.json on the hub gives them."""

from transformers import Qwen2VLConfig

from vsr.errors import VsrError

_QWEN_VISION = {"embed_dim": 1280, "depth": 32, "num_heads": 16, "mlp_ratio": 4}

# Qwen/Qwen2-VL-*-Instruct, config.json; 2,208,985,600 and 8,291,375,616 parameters
QWEN2_VL: dict[str, dict] = {
    "Qwen/Qwen2-VL-2B-Instruct": {
        "text": {
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "max_window_layers": 28,
            "mrope_section": [16, 24, 24],
        },
        "vision": _QWEN_VISION,
        "tied": True,
    },
    "Qwen/Qwen2-VL-7B-Instruct": {
        "text": {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_window_layers": 28,
            "mrope_section": [16, 24, 24],
        },
        "vision": _QWEN_VISION,
        "tied": False,
    },
}


def tiny_config() -> dict:
    """Sizes of the miniature, in transformers' names: about 2.5M parameters with a vocabulary of 1.5k."""
    return {
        "text": {
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "mrope_section": [4, 6, 6],
        },
        "vision": {"embed_dim": 128, "depth": 3, "num_heads": 4, "mlp_ratio": 2},
    }


def reduced(sizes: dict, layers: int, depth: int) -> dict:
    """The same widths with `layers` language-model layers and `depth` vision blocks."""
    return {
        **sizes,
        "text": {**sizes["text"], "num_hidden_layers": layers, "max_window_layers": layers},
        "vision": {**sizes["vision"], "depth": depth},
    }


def shape(sizes: dict, **ids: int) -> Qwen2VLConfig:
    """The Qwen2-VL configuration of some sizes, with the ids of special tokens where given."""
    text, tied = dict(sizes["text"]), sizes.get("tied", True)
    sections = text.pop("mrope_section")
    width, heads = text["hidden_size"], text["num_attention_heads"]
    if 2 * sum(sections) * heads != width:
        raise VsrError(f"mrope_section {sections}: must sum to half the head size, {width // heads / 2:g}")
    return Qwen2VLConfig(
        text_config={
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": tied,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            **text,
        },
        vision_config={"hidden_size": width, **sizes["vision"]},
        tie_word_embeddings=tied,
        architectures=["Qwen2VLForConditionalGeneration"],
        **ids,
    )
