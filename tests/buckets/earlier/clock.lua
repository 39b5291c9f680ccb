-- The clock of all decisions: the time of Redis, in microseconds since 1970 UTC.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
