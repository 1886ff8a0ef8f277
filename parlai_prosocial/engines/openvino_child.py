"""The process that OpenVINO GenAI samples in: a JSON object a line comes in, one goes out.

It is run as a file of its own and imports nothing of ours: torch and OpenVINO in one process have
died of SIGFPE. The first line says what to open and is answered with ``{"version": ...}``; every
further one says what to sample and is answered with ``{"replies": ...}``, or ``{"error": ...}``.
It ends where its input does, so with the process that started it.
"""

import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it says when to end
    # Whatever a library prints must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    pipeline = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if pipeline is None:
                pipeline, answer = open_pipeline(asked)
            else:
                answer = {"replies": sample(pipeline, asked)}
        except Exception as error:  # whatever it is, the other process has to tell it
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def open_pipeline(asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The pipeline of ``model``, a GGUF file, and what to answer."""
    import openvino_genai

    numbers = "bf16" if asked["bf16"] else "f32"
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = 4096
    # What was cached before would change the shapes, so the rounding, so now and then a reply: a
    # run that was stopped would go on otherwise than one that was not. Gain on short prompts: 3 %.
    scheduler.enable_prefix_caching = False
    properties = {
        "INFERENCE_PRECISION_HINT": numbers,
        "KV_CACHE_PRECISION": numbers,
        "INFERENCE_NUM_THREADS": asked["threads"],
    }
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        asked["model"], scheduler, "CPU", properties
    )
    return pipeline, {"version": openvino_genai.get_version()}


def sample(pipeline: Any, asked: dict[str, Any]) -> list[list[list[int]]]:
    """Token ids of ``n`` replies to each of ``contexts``, token ids too; a seed each."""
    import numpy as np
    import openvino
    import openvino_genai

    stops = set(asked["stops"])
    greedy = asked["temperature"] == 0
    configs = []
    for seed in asked["seeds"]:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = asked["max_tokens"]
        config.stop_token_ids = stops
        config.apply_chat_template = False
        config.do_sample = not greedy
        if not greedy:
            config.num_return_sequences = asked["n"]
            config.temperature = asked["temperature"]
            config.top_p = asked["top_p"]
            config.rng_seed = seed
        configs.append(config)
    contexts = [openvino.Tensor(np.array([ids], np.int64)) for ids in asked["contexts"]]
    found = []
    for result in pipeline.generate(contexts, configs):
        replies = [list(map(int, ids)) for ids in result.m_generation_ids]
        if any(len(ids) < asked["max_tokens"] and not stops & set(ids[-1:]) for ids in replies):
            raise RuntimeError("it gave a reply up, as it does without memory for its cache")
        found.append(replies * asked["n"] if greedy else replies)
    return found


if __name__ == "__main__":
    main()
