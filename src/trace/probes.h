// Static probes (USDT) at the moments that traces note, for perf, bpftrace and SystemTap; a no-op instruction each
// until one of these attaches. docs/trace.md lists them. Without <sys/sdt.h> there are none.
#pragma once

#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define DE_PROBE1(name, a) DTRACE_PROBE1(diskengine, name, a)
#define DE_PROBE2(name, a, b) DTRACE_PROBE2(diskengine, name, a, b)
#define DE_PROBE3(name, a, b, c) DTRACE_PROBE3(diskengine, name, a, b, c)
#define DE_PROBE5(name, a, b, c, d, e) DTRACE_PROBE5(diskengine, name, a, b, c, d, e)
#else
#define DE_PROBE1(name, a)
#define DE_PROBE2(name, a, b)
#define DE_PROBE3(name, a, b, c)
#define DE_PROBE5(name, a, b, c, d, e)
#endif
