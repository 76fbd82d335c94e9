import time
from tests.api.line import *
from tests.api.test_read import add_chunk
def test_perf(line):
    for w in range(0, 8640, 1000):
        rows=[{"ts": BASE-(9000-w-i)*10_000, "page": f"/{g}", "ms": 1.0*g} for i in range(1000) for g in range(5)]
        add_chunk(line, rows)
    t=time.time()
    for _ in range(400):
        line.worker._next_close_s=0; line.worker.poll_once()
    print("work",time.time()-t)
    for q in ("start=0","start=0&limit=100000","start=0&limit=10","order=-window&limit=10&start=0","start=0&order=-views&limit=10","start=0&step=1h","","start=0&where.page=/1&limit=100000"):
        t=time.time(); a=line.http.get("/v1/metrics/by_page?"+q); print(q,a.status_code,len(a.data),round(time.time()-t,3))
    for p in ("/v1/streams","/v1/stages","/v1/metrics","/metrics","/readyz","/v1/streams/visits/events"):
        t=time.time(); a=line.http.get(p); print(p,a.status_code,len(a.data),round(time.time()-t,4))
    import cProfile,pstats
    pr=cProfile.Profile(); pr.enable(); line.http.get("/v1/metrics/by_page?start=0&limit=100000"); pr.disable()
    pstats.Stats(pr).sort_stats("cumtime").print_stats(25)
