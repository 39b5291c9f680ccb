-- The state of buckets, by the index of their key.
--
-- One string of doubles for each: used (micro-tokens); at (the time of that amount, in microseconds since 1970 UTC); keep
-- (the time until which the string has to live); and only where part of a micro-token has drained, that part: numerator,
-- denominator. It is the same for every kind of limit, so that what was consumed stays consumed when a limit changes, and
-- `keep` never decreases, so that a quota's state survives a change to a fast bucket and back.
local GRACE_MS = 60000 -- how long an untouched bucket is kept

local stored = KEYS[1] and redis.call('MGET', unpack(KEYS))
local used, at, keep, part, per = {}, {}, {}, {}, {}

local function read(k)
  local state = stored[k]
  if not state then
    used[k], at[k], keep[k], part[k], per[k] = 0, 0, 0, 0, 1
  elseif #state == 24 then
    used[k], at[k], keep[k] = struct.unpack('<ddd', state)
    part[k], per[k] = 0, 1
  else
    used[k], at[k], keep[k], part[k], per[k] = struct.unpack('<ddddd', state)
  end
end

local function write(k)
  local state
  if part[k] > 0 then
    state = struct.pack('<ddddd', used[k], at[k], keep[k], part[k], per[k])
  else
    state = struct.pack('<ddd', used[k], at[k], keep[k])
  end
  -- Formatted, since Lua may convert a bare number to 1e+08.
  redis.call('SET', KEYS[k], state, 'PX', string.format('%.0f', math.ceil((keep[k] - now) / 1000) + GRACE_MS))
end
