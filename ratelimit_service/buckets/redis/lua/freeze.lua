-- Freezes the open segment if it is over, so that it can be read although nothing more is counted. Removes numbers that are none.
--
-- KEYS[1]  the open segment.
-- ARGV[1]  the bytes that counts may take in the store.
-- Returns  the minute of the segment that is still open, -1 if none is.
for _, field in ipairs({'seq', 'bytes', 'lost', 'squeezed'}) do number_of(string.sub(KEYS[1], 1, -2) .. 'n', field) end
local packed = redis.call('HGET', KEYS[1], '')
local meta = packed and usage_turn(KEYS[1], tonumber(ARGV[1]), packed, false)
if not meta then return -1 end
if meta.dirty then redis.call('HSET', KEYS[1], '', struct.pack(META, unpack(meta, 1, 9))) end
return meta[3]
