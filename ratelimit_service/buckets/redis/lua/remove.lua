-- Removes a segment of usage that was flushed; again and again if need be.
--
-- KEYS[1]  the segment.
-- KEYS[2]  the queue of segments.
-- KEYS[3]  the numbers of its tag, of which `bytes` is the size of all frozen segments.
-- ARGV[1]  the name of the segment.
-- Returns  1, or 0 when it was removed before.
local packed = redis.call('HGET', KEYS[1], '')
redis.call('UNLINK', KEYS[1])
if redis.call('LREM', KEYS[2], 1, ARGV[1]) == 0 then return 0 end
if packed then
  local _, _, _, bytes = struct.unpack('<dddd', packed)
  local left = redis.call('HINCRBY', KEYS[3], 'bytes', string.format('%.0f', -bytes))
  if left < 0 or redis.call('LLEN', KEYS[2]) == 0 then redis.call('HSET', KEYS[3], 'bytes', 0) end
end
return 1
