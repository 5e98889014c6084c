"""The KAN model on vLLM: a plugin that every vLLM process loads by the entry point `vllm.general_plugins`.

model.py       the Llama family, its attention widened by the key channels that carry φ
connector.py   the KV connector: loads mounted facts into a request's blocks, records facts that are to be encoded
transfer.py    what a request tells the connector; knows nothing of vLLM
loader.py      the worker's part of loading
recorder.py    the worker's part of recording
repetition.py  a repetition penalty that does not count mounted facts as said
orphans.py     ends vLLM's processes when the server was killed

Nothing else of the project imports this package's vLLM parts, and the embedded engine needs none of it.
"""

from __future__ import annotations

ARCHITECTURE = "KalmaGroveForCausalLM"


def register() -> None:
    """Make the model known. vLLM calls it in each of its processes, perhaps more than once."""
    from vllm import ModelRegistry

    from server.engine.vllm.plugin.orphans import exit_with_parent

    exit_with_parent()
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        # By name: the class must not be imported before vLLM has chosen its platform.
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:{ARCHITECTURE}")
