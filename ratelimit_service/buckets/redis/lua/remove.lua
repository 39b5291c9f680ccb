-- Removes a segment of usage that was flushed; again and again if need be.
--
-- KEYS[1]  the segment.
-- KEYS[2]  the queue of segments.
-- KEYS[3]  the numbers of its tag, of which `bytes` is the size of all frozen segments.
-- ARGV[1]  the name of the segment.
-- Returns  1, or 0 when it was removed before.
local packed = redis.call('HGET', KEYS[1], '') or ''
redis.call('UNLINK', KEYS[1])
if redis.call('LREM', KEYS[2], 1, ARGV[1]) == 0 then return 0 end
local bytes = #packed >= 32 and select(4, struct.unpack('<dddd', packed)) or 0
if not (bytes >= 0 and bytes < 9007199254740992) then bytes = 0 end -- of a segment that is damaged
local left = redis.call('HINCRBY', KEYS[3], 'bytes', string.format('%.0f', 0 - bytes))
if left < 0 or redis.call('LLEN', KEYS[2]) == 0 then redis.call('HSET', KEYS[3], 'bytes', 0) end
return 1
