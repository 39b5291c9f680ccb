-- Reads and writes any state of a bucket; state.lua has its format.
-- Reads the number of the bucket K that comes last.
local function read_more(k, number)
  local whole = math.floor(number)
  if whole > 0 then refunds[k] = whole end
  if number > whole and keep[k] > now then mixed[k] = true end
end

local function read(k)
  local state = stored[k]
  if not state then
    used[k], at[k], keep[k], part[k], per[k] = 0, 0, 0, 0, 1
  elseif #state == 24 then
    used[k], at[k], keep[k] = struct.unpack('<ddd', state)
    part[k], per[k] = 0, 1
  elseif #state == 48 then
    used[k], at[k], keep[k], part[k], per[k] = struct.unpack('<ddddd', state)
    read_more(k, struct.unpack('<d', state, 41))
  else
    used[k], at[k], keep[k], part[k], per[k] = struct.unpack('<ddddd', state)
    if #state >= 72 then
      local all = {struct.unpack('<dddd', state, 41)}
      local count = all[4]
      for i = 4, 3 + count do
        all[i] = {struct.unpack('<ddddd', state, 73 + 40 * (i - 4))}
      end
      if count > 0 and #state == 80 + 40 * count then read_more(k, struct.unpack('<d', state, 73 + 40 * count)) end
      all[4 + count] = nil -- struct.unpack also returns the position after the last
      all[5 + count] = nil
      wide = wide or {}
      wide[k] = all
    end
  end
end

local function write(k)
  local state
  local all = wide and wide[k]
  local more = (refunds[k] or 0) + (mixed[k] and 0.5 or 0)
  if all then
    local parts = {struct.pack('<ddddddddd', used[k], at[k], keep[k], part[k], per[k], all[1], all[2], all[3], #all - 3)}
    for i = 4, #all do parts[i - 2] = struct.pack('<ddddd', unpack(all[i], 1, 5)) end
    if more > 0 then parts[#parts + 1] = struct.pack('<d', more) end
    state = table.concat(parts)
  elseif more > 0 then
    state = struct.pack('<dddddd', used[k], at[k], keep[k], part[k], per[k], more)
  elseif part[k] > 0 then
    state = struct.pack('<ddddd', used[k], at[k], keep[k], part[k], per[k])
  else
    state = struct.pack('<ddd', used[k], at[k], keep[k])
  end
  -- Formatted, since Lua may convert a bare number to 1e+08.
  redis.call('SET', KEYS[k], state, 'PX', string.format('%.0f', math.ceil((keep[k] - now) / 1000) + GRACE_MS))
end
