-- The one clock of every decision: Redis's own, in microseconds since 1970 UTC.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
