-- Adds a worker's batch of counts, once.
--
-- KEYS[1]  the open segment.
-- KEYS[2]  what shows that the batch was added.
-- ARGV[1]  the bytes that counts may take in the store.
-- ARGV[2]  MessagePack: a flat array. Per row: its minute, in minutes since 1970; the field of its series; the number of its
--          counts, and these.
-- ARGV[3]  the milliseconds for which the store knows the batch.
-- Returns  1, or 0 when the batch was added before.
--
-- Counts of an earlier minute than the open segment's keep their own, in their field. Those of a later one, by the worker's
-- clock, count in the open segment's.
if not redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[3]) then return 0 end
local cap, rows = tonumber(ARGV[1]), cmsgpack.unpack(ARGV[2])
local fields, sums, index, calls = {}, {}, {}, 0

local function add()
  local meta = usage_turn(KEYS[1], cap, redis.call('HGET', KEYS[1], ''), true)
  if meta.dirty then redis.call('HSET', KEYS[1], '', struct.pack(META, unpack(meta, 1, 9))) end
  local p = 1
  while p <= #rows do
    local minute, field, count = rows[p], rows[p + 1], rows[p + 2]
    if minute < meta[3] then field = string.format('%.0f\30', minute) .. field end
    local i = index[field]
    if not i then
      i = #fields + 1
      fields[i], sums[i], index[field] = field, {}, i
    end
    for j = 1, count do sums[i][j] = (sums[i][j] or 0) + rows[p + 2 + j] end
    for j = count + 1, 3 do sums[i][j] = sums[i][j] or 0 end
    p = p + 3 + count
  end
  usage_add(KEYS[1], cap, fields, {}, {}, sums)
end

local p = 1
while p <= #rows do
  local count = rows[p + 2]
  calls = calls + (count > 0 and rows[p + 3] or 0) + (count > 2 and rows[p + 5] or 0)
  p = p + 3 + count
end
if not pcall(add) then usage_lost(KEYS[1], calls) end
return 1
