-- Like the peers' run.lua, and each connection waits `pause` milliseconds before each request, so that the rate is
-- held below the server's peak. args: list-file pause [unique]; `unique` appends a counter to each target.
local reqs, n, i, pause, unique = {}, 0, 0, 0, false
function init(args)
  wrk.headers["Host"] = "cdn.test"
  pause = tonumber(args[2] or "0")
  unique = args[3] ~= nil
  for l in io.lines(args[1]) do
    n = n + 1
    reqs[n] = unique and l or wrk.format("GET", l)
  end
  i = unique and (tonumber(args[3]) or 0) or 0
end
function delay() return pause end
function request()
  i = i + 1
  if unique then return wrk.format("GET", reqs[i % n + 1] .. "?u=" .. i) end
  return reqs[i % n + 1]
end
function done(s, l, r)
  io.write(string.format('JSON {"req":%d,"us":%d,"bytes":%d,"p50":%d,"p90":%d,"p99":%d,"max":%d,"err":%d,"status":%d,"timeout":%d}\n',
    s.requests, s.duration, s.bytes, l:percentile(50), l:percentile(90), l:percentile(99), l.max,
    s.errors.connect + s.errors.read + s.errors.write, s.errors.status, s.errors.timeout))
end
