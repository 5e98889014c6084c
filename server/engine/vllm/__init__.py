"""The engine on vLLM: the same protocol, the model's work done by vLLM's own processes.

engine.py      the protocol
facts.py       facts recorded when they are new
stream.py      one request's chunks, and its end
core.py        one AsyncLLM at a time; a dead one is replaced
arguments.py   vLLM's engine arguments from our settings
requests.py    a request in vLLM's words, and its tokens back in ours
progress.py    vLLM's numbers, as far as our metrics show them
plugin/        what vLLM's own processes load

Importing this package imports no vLLM; starting the engine does.
"""
