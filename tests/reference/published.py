"""Parameters as model cards and reports give them, in billions, by the name of the model on Hugging Face.

Sources differ in what they call active: some leave the embedding table out, some the LM head too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """Figures in billions, with the digits of the source."""

    total: str
    active: str | None
    """Of a mixture of experts, those that a token uses."""
    source: str


LLAMA = "The Llama 3 Herd of Models, arXiv:2407.21783; model cards of Llama 3.1"
QWEN = "model card: Number of Parameters, .. in total and .. activated; arXiv:2505.09388, tables 1 and 2"
MIXTRAL = "Mixtral of Experts, arXiv:2401.04088, section 2, and https://mistral.ai/news/mixtral-of-experts"
DEEPSEEK = "DeepSeek-V3 Technical Report, arXiv:2412.19437, abstract"
DEEPSEEK_V4 = "model cards of DeepSeek-V4-Pro and DeepSeek-V4-Flash, deepseek-ai on Hugging Face"
KIMI = "Kimi K2, arXiv:2507.20534, table 2"
GLM = "GLM-5, arXiv:2602.15763, table 1"
GPT_OSS = "gpt-oss model card, arXiv:2508.10925, table 1"
MINIMAX = "model card: 229B parameters in its files, 10 billion active"

PUBLISHED: Mapping[str, Published] = {
    "meta-llama/Meta-Llama-3.1-8B": Published("8.03", None, LLAMA),
    "meta-llama/Meta-Llama-3.1-70B": Published("70.6", None, LLAMA),
    "meta-llama/Meta-Llama-3.1-405B": Published("405", None, LLAMA),
    "Qwen/Qwen3-0.6B": Published("0.6", None, QWEN),
    "Qwen/Qwen3-1.7B": Published("1.7", None, QWEN),
    "Qwen/Qwen3-8B": Published("8.2", None, QWEN),
    "Qwen/Qwen3-32B": Published("32.8", None, QWEN),
    "Qwen/Qwen3-30B-A3B": Published("30.5", "3.3", QWEN),
    "Qwen/Qwen3-235B-A22B": Published("235", "22", QWEN),
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": Published("480", "35", QWEN),
    "mistralai/Mixtral-8x7B-v0.1": Published("46.7", "12.9", MIXTRAL),
    "mistralai/Mixtral-8x22B-v0.1": Published("141", "39", "https://mistral.ai/news/mixtral-8x22b"),
    "deepseek-ai/DeepSeek-V3": Published("671", "37", DEEPSEEK),
    "deepseek-ai/DeepSeek-V4-Flash": Published("284", "13", DEEPSEEK_V4),
    "deepseek-ai/DeepSeek-V4-Pro": Published("1600", "49", DEEPSEEK_V4),
    "deepseek-ai/DeepSeek-R1": Published("671", "37", "model card"),
    "deepseek-ai/DeepSeek-V2": Published("236", "21", "DeepSeek-V2, arXiv:2405.04434, abstract"),
    "deepseek-ai/DeepSeek-V2-Lite": Published("15.7", "2.4", "DeepSeek-V2, arXiv:2405.04434, appendix B"),
    "moonshotai/Kimi-K2-Instruct": Published("1040", "32.6", KIMI),
    "zai-org/GLM-5": Published("744", "40", GLM),
    "google/gemma-4-26B-A4B": Published("25.2", "3.8", "model card: Total Parameters, Active Parameters"),
    "bigscience/bloom-560m": Published("0.559", None, "model card: 559,214,592 parameters"),
    "bigscience/bloom": Published("176.25", None, "model card: 176,247,271,424 parameters; arXiv:2211.05100, table 3"),
    "openai/gpt-oss-20b": Published("20.91", "3.61", GPT_OSS),
    "openai/gpt-oss-120b": Published("116.83", "5.13", GPT_OSS),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": Published("31.6", "3.2", "model card; arXiv:2512.20848"),
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1": Published("49.9", None, "parameters in its files"),
    "MiniMaxAI/MiniMax-M2.5": Published("229", "10", MINIMAX),
    "XiaomiMiMo/MiMo-7B-Base": Published("7.83", None, "model card: parameters in its files, an MTP layer among them"),
}
