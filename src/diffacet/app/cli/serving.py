"""The command serve."""

import os

from diffacet.app import engine_options as e
from diffacet.app import options as o
from diffacet.app import serving_options as s
from diffacet.app.cli.shell import app
from diffacet.errors import require

HOST, PORT = "127.0.0.1", 8000


@app.command(
    short_help="Answer requests for candidates by HTTP.",
    help=o.described(
        "Serve a run: candidates, interests and similar items as JSON, and a page to look at them (extra 'serve')."
        " One line on standard output says that it is ready; the log, a JSON object a line, goes to standard error."
        " SIGHUP loads what RUN holds by then, while requests go on; SIGTERM and Ctrl-C answer what was asked and end.",
        "diffacet serve runs/dmi",
        'curl http://127.0.0.1:8000/v1/recommend --json \'{"history": [12, 7, 99], "k": 10}\'',
        "diffacet serve runs/current --workers 2 --watch           # a link: turn it to a newer run at any time",
        "diffacet serve runs/dmi --steps 1 --gather 0              # faster, every request alone",
        "openssl rand -hex 32 > keys",
        "diffacet serve runs/dmi --host 0.0.0.0 --api-key-file keys",
        "kill -HUP PID                                             # the run and the keys, read again",
        "diffacet serve runs/dmi --workers 2 --engine ray          # the workers are replicas of Ray Serve",
    ),
)
def serve(
    run: s.Served,
    host: s.Host = HOST,
    port: s.Port = PORT,
    workers: s.Workers = 1,
    index: s.IndexKind = "auto",
    steps: s.Steps = None,
    set_: o.Asked = None,
    api_key_file: s.KeyFile = None,
    no_auth: s.NoAuth = False,
    gather: s.Gather = 2.0,
    max_batch: s.MaxBatch = 64,
    max_in_flight: s.MaxInFlight = 256,
    timeout: s.Timeout = 10.0,
    max_history: s.MaxHistory = 1000,
    max_k: s.MaxK = 1000,
    max_body: s.MaxBody = 1024,
    drain: s.Drain = 30.0,
    watch: s.Watch = False,
    log_histories: s.LogHistories = False,
    cors: s.Cors = None,
    threads: s.Threads = 1,
    device: o.Device = "auto",
    engine: e.EngineName = e.Engine.LOCAL,
    address: e.Address = None,
) -> int:
    """Run to service."""
    e.check(engine, address)
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # some other program's: metrics are to be of this service alone
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require(package, "serve")
    # Read by the mathematics of torch and FAISS when they load, here and in the workers.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from diffacet.app.serving import server
    from diffacet.app.serving.options import ServeOptions, read_keys

    options = ServeOptions(
        host=host,
        port=port,
        workers=workers,
        index=index,
        refine_steps=steps,
        keys=() if api_key_file is None else read_keys(api_key_file),
        gather=gather,
        max_batch=max_batch,
        max_in_flight=max_in_flight,
        timeout=timeout,
        max_history=max_history,
        max_k=max_k,
        max_body=max_body * 1024,
        drain=drain,
        watch=watch,
        log_histories=log_histories,
        cors=tuple(cors or ()),
        threads=threads,
    )
    what = server.Serving(run, options, tuple(set_ or ()), device, api_key_file)
    if engine is e.Engine.RAY:
        from diffacet.app.cluster import serving

        return serving.serve(what, address=address, open_to_all=no_auth)
    return server.serve(what, open_to_all=no_auth)
