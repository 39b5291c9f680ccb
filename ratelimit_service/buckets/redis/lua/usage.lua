-- Usage: counts of calls by series, in hashes of a minute each (decision/usage.py has the format of fields and values).
--
-- All keys begin with the tag that the open segment's key has, `<tag>:u:o`, so that they are in its slot of a cluster:
--   <tag>:u:o                      the open segment. Its field "" holds META: seq, created (us), minute, bytes, overflow,
--                                  coarse, and zeros that make the value so long that the hash is never a listpack, in
--                                  which each access would be a linear search.
--   <tag>:u:s:<seq>.<created>      a frozen segment: it never changes
--   <tag>:u:q                      the names of the frozen segments, oldest first
--   <tag>:u:n                      seq; bytes (of all frozen segments); lost (calls that could not be counted);
--                                  squeezed (calls counted under `other` because there was no room)
--   <tag>:u:r                      the resources of each key in this UTC day; its field "" is the day
--
-- A segment is frozen when its minute is over. The fuller the space for frozen segments, the longer they get: ten minutes,
-- an hour, then without end. So minutes merge while they are counted, and what is frozen never changes.
local META = '<ddddddddd'
local pack_doubles, unpack_doubles = struct.pack, struct.unpack
local US_PER_MINUTE, MINUTES_PER_DAY = 60000000, 1440
local MAX_STEP_BACK = 10 -- minutes: an open segment that is further ahead of the clock is frozen, or it would be for ever
local MAX_RESOURCES, DIGEST = 100, 6
local FIELD_BYTES, ROOM = 112, 1.25 -- of a field beside its name; the part of the cap at which not even `other` is counted

local DOUBLES = setmetatable({}, {__index = function(t, n)
  t[n] = '<' .. string.rep('d', n)
  return t[n]
end})

-- The whole number in FIELD, 0 if there is none. Another text, which somebody else has written, is removed: nothing could be
-- counted or flushed beside it.
local function number_of(key, field)
  local text = redis.call('HGET', key, field)
  if not text then return 0 end
  if #text <= 17 and string.find(text, '^%-?%d+$') then return tonumber(text) end
  redis.call('HDEL', key, field)
  return 0
end

-- The open segment's meta, as a table, for COUNT calls. Freezes the segment that is over, and begins one if `begin`.
local function usage_turn(key, cap, packed, begin)
  local prefix = string.sub(key, 1, -2)
  local minute, seq = math.floor(now / US_PER_MINUTE), 0
  local meta = packed and {unpack_doubles(META, packed)}
  if meta then
    local first, pending = meta[3], number_of(prefix .. 'n', 'bytes')
    local length = pending < cap / 2 and 1 or pending < cap * 3 / 4 and 10 or pending < cap * 7 / 8 and 60
    local over = length and math.floor(minute / length) > math.floor(first / length)
    if not over and first - minute <= MAX_STEP_BACK then
      if minute > first and meta[6] == 0 then meta[6], meta.dirty = 1, true end
      return meta
    end
    seq = meta[1]
    local name = string.format('%.0f.%.0f', seq, meta[2])
    redis.call('RENAME', key, prefix .. 's:' .. name)
    redis.call('RPUSH', prefix .. 'q', name)
    redis.call('HINCRBY', prefix .. 'n', 'bytes', string.format('%.0f', meta[4]))
  end
  if not begin then return nil end
  seq = math.max(seq, number_of(prefix .. 'n', 'seq')) + 1
  redis.call('HSET', prefix .. 'n', 'seq', string.format('%.0f', seq))
  return {seq, now, minute, FIELD_BYTES, 0, 0, 0, 0, 0, dirty = true, new = true}
end

-- Whether RESOURCE is one of the first that the key had today; it is from now on if there is room.
local function is_named(prefix, key_id, resource)
  local list, today = prefix .. 'r', math.floor(now / US_PER_MINUTE / MINUTES_PER_DAY)
  local day = number_of(list, '')
  if today > day or today < day - 1 then -- not for a clock that stepped back over midnight
    redis.call('UNLINK', list)
    redis.call('HSET', list, '', string.format('%.0f', today))
    redis.call('EXPIRE', list, 172800)
  end
  local hex = redis.sha1hex(resource)
  local digest = struct.pack('>I4I2', tonumber(string.sub(hex, 1, 8), 16), tonumber(string.sub(hex, 9, 12), 16))
  local digests = redis.call('HGET', list, key_id) or ''
  local from = 1
  while true do
    local found = string.find(digests, digest, from, true)
    if not found then break end
    if found % DIGEST == 1 then return true end
    from = found + 1
  end
  if #digests >= MAX_RESOURCES * DIGEST then return false end
  redis.call('HSET', list, key_id, digests .. digest)
  return true
end

-- The field under which CALLS of a series that has none in the open segment are counted; nil when there is no room.
local function usage_field(prefix, cap, meta, field, calls)
  local room = cap - meta[4] - number_of(prefix .. 'n', 'bytes')
  local minute, rest = string.match(field, '^(%d+\30)(.*)$')
  local key_id, resource, tail = string.match(rest or field, '^K\31([^\31]*)\31([^\31]*)(\31.*)$')
  if room > 0 then
    if not key_id or resource == 'other' or is_named(prefix, key_id, resource) then return field end
    meta[5], meta.dirty = meta[5] + calls, true
  else
    redis.call('HINCRBY', prefix .. 'n', 'squeezed', string.format('%.0f', calls))
    minute = nil
  end
  field = key_id and 'K\31' .. key_id .. '\31other' .. tail or rest or field
  if room < (1 - ROOM) * cap and redis.call('HEXISTS', prefix .. 'o', field) == 0 then return nil end
  return (minute or '') .. field
end

-- The packed counts PACKED (false: none) plus those of `counts`, a dense array.
local function usage_sum(packed, counts)
  local n = packed and #packed / 8 or 0
  local sum = n > 0 and {unpack_doubles(DOUBLES[n], packed)} or {}
  sum[n + 1] = nil -- struct.unpack also returns the position after the last
  for i = 1, #counts do sum[i] = (sum[i] or 0) + counts[i] end
  n = #sum
  while n > 0 and sum[n] == 0 do n = n - 1 end
  return pack_doubles(DOUBLES[n], unpack(sum, 1, n))
end

-- Adds to the series FIELDS, each once: `allowed[i]` calls that cost `spent[i]`, and the counts of `more[i]` (an array in the
-- format of a value), each of them nil if there is none. HAVE is what the segment has of `""` and these, nil if that is not known.
local function usage_add(key, cap, fields, allowed, spent, more, have)
  have = have or redis.call('HMGET', key, '', unpack(fields))
  local packed = have[1]
  local meta
  local _, _, minute = unpack_doubles('<ddd', packed or string.rep('\0', 24))
  local ahead = now / US_PER_MINUTE - minute
  if ahead >= 1 or ahead < -MAX_STEP_BACK then
    meta = usage_turn(key, cap, packed, true)
    if meta.new then have = {} end
  end

  local set, n, moved = {}, 0, nil
  for i = 1, #fields do
    local old, a, counts = have[i + 1], allowed[i], more[i]
    if a or counts then
      local field = fields[i]
      if not old then
        meta = meta or {unpack_doubles(META, packed)}
        local calls = (a or 0) + (counts and (counts[1] + counts[3]) or 0)
        field = usage_field(string.sub(key, 1, -2), cap, meta, field, calls)
        if not field then
          redis.call('HINCRBY', string.sub(key, 1, -2) .. 'n', 'lost', string.format('%.0f', calls))
        elseif field == fields[i] then
          meta[4], meta.dirty = meta[4] + #field + FIELD_BYTES, true
        else
          moved = moved or {}
          moved[#moved + 1] = {field, i}
          field = nil
        end
      end
      if field then
        local value
        if not counts and old and #old == 16 then
          local calls, cost = unpack_doubles('<dd', old)
          value = pack_doubles('<dd', calls + a, cost + spent[i])
        elseif not counts and not old then
          value = pack_doubles('<dd', a, spent[i])
        else
          value = old
          if a then value = usage_sum(value, {a, spent[i]}) end
          if counts then value = usage_sum(value, counts) end
        end
        set[n + 1], set[n + 2] = field, value
        n = n + 2
      end
    end
  end
  if n > 0 then redis.call('HSET', key, unpack(set)) end
  for _, move in ipairs(moved or {}) do -- only now: the field may also be one of those above
    local field, i = move[1], move[2]
    local value = redis.call('HGET', key, field)
    if not value then meta[4] = meta[4] + #field + FIELD_BYTES end
    meta.dirty = true
    if allowed[i] then value = usage_sum(value, {allowed[i], spent[i]}) end
    if more[i] then value = usage_sum(value, more[i]) end
    redis.call('HSET', key, field, value)
  end
  if meta and meta.dirty then redis.call('HSET', key, '', pack_doubles(META, unpack(meta, 1, 9))) end
end

-- Notes that CALLS could not be counted, which a metric reports. Never fails: no charge fails because of its count.
local function usage_lost(key, calls)
  redis.pcall('HINCRBY', string.sub(key, 1, -2) .. 'n', 'lost', string.format('%.0f', calls))
end
