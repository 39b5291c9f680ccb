-- Decides the batch, in order: the plain charges here, the others by others.lua. That would decide plain ones, too: its arithmetic is the same.
-- Plain is a charge of enforced or shadow token buckets and windows up to a day, with counts of the usual kind and nothing else,
-- if each of its buckets is as one limit alone left it. It reads and writes only what is in the first five numbers of a state.
local SECOND, MINUTE, HOUR, DAY = 1000000, 60000000, 3600000000, 86400000000
local DAYS = 5 -- the kind of a window of a day: those of longer ones are above, as that of slots is
local FIRST_COUNTS = 5 -- the numbers of a count before those of its limits
local pack, unpack_doubles, ceil = struct.pack, struct.unpack, math.ceil
local others -- the functions of others.lua; nil until something needs them
-- Three for each bucket of a charge: the micro-tokens used before it, false if they leave no room; the numerator of the part that
-- has drained; until when it has to be kept then.
local found = {}
local charge_of -- by the index of a key, where the last charge with it is in the batch, of those with several buckets

local p, o, size = 1, 1, #batch
while p <= size do
  local count, series = batch[p], batch[p + 2]
  local plain = ROOM_LEFT == 0 and count < 1024 and batch[p + 1] == 0 and series >= 0
  local fits, all_fit, by_time = true, true, true
  local b, r, n = p + 3, o + 1, 1
  if count > 1 then charge_of = charge_of or {} end
  for i = 1, plain and count or 0 do
    local k, cost, kind = batch[b], batch[b + 1] * TOKEN, batch[b + 2]
    local capacity, num, den = batch[b + 3], batch[b + 4], batch[b + 5]
    local shadow = kind < 0
    if shadow then kind = -kind end
    if kind > 16 then kind = kind % 16 end
    plain = cost >= 0 and kind <= DAYS and (count == 1 or charge_of[k] ~= p)
    if not plain then break end
    if count > 1 then charge_of[k] = p end

    if not used[k] then
      local state = stored[k]
      if not state then
        used[k], at[k], keep[k], part[k], per[k] = 0, 0, 0, 0, 1
      elseif #state == 24 then
        used[k], at[k], keep[k] = unpack_doubles('<ddd', state)
        part[k], per[k] = 0, 1
      elseif #state == 40 then
        used[k], at[k], keep[k], part[k], per[k] = unpack_doubles('<ddddd', state)
      else
        plain = false
        break
      end
    end
    local u, d, a = used[k], 0, at[k]
    plain = a <= now and not (refunds[k] or mixed[k] or wide and wide[k] or kind == 1 and u > capacity)
    if not plain then break end

    local closing
    if kind == 1 then
      if per[k] == den then d = part[k] end
      if u > 0 then
        local elapsed = now - a
        local periods = floor(elapsed / den)
        local rest = (elapsed - periods * den) * num
        local whole = floor(rest / den)
        d = d + rest - whole * den
        if d >= den then
          d, whole = d - den, whole + 1
        end
        u = u - (periods * num + whole)
      end
      if u <= 0 then
        u, d = 0, 0
      end
    else
      local length = kind == 5 and DAY or kind == 4 and HOUR or kind == 3 and MINUTE or SECOND
      local opening = now - now % length
      closing = opening + length
      if a < opening then u = 0 end
    end

    local wait = 0
    found[n], found[n + 1] = u, d
    if cost == 0 or u + cost <= capacity then
      u = u + cost
    else
      found[n], all_fit = false, false
      if not shadow then fits = false end
      local full = closing -- when it is untouched, if no other limit has charged it
      if kind == 1 then
        full = a + time_until_drained(used[k], per[k] == den and part[k] or 0, num, den)
      end
      if cost > capacity then
        wait = -1
      elseif kind == 1 then
        wait = time_until_drained(u - capacity + cost, d, num, den) -- below 2^53, as any of a limit's times
      else
        wait = closing - now
      end
      if wait > 0 and keep[k] ~= full then by_time = false end
    end
    local reset = 0
    if u > 0 then
      reset = kind == 1 and time_until_drained(u, d, num, den) or closing - now
    end
    if cost > 0 and wait == 0 then
      local kept, ends = keep[k], now + reset
      if ends > MAX then ends = MAX end
      if kept > now then -- else it is as if it were new
        local ahead = ends - kept - (kind == 1 and cost / num * den or 0)
        if ahead >= 1 or ahead <= -1 then -- another limit has charged it, too
          plain = false
          break
        end
      end
      found[n + 2] = ends -- never before `kept`: then `ahead` would be -1 or less
    end
    out[r], out[r + 1], out[r + 2] = u < capacity and capacity - u or 0, wait, reset
    b, r, n = b + 6, r + 3, n + 3
  end

  if plain then
    b, r, n = p + 3, o + 1, 1
    for _ = 1, (fits or count > 1) and count or 0 do
      local u, cost = found[n], batch[b + 1] * TOKEN
      if u and cost > 0 then
        local capacity, num, den = batch[b + 3], batch[b + 4], batch[b + 5]
        if fits then
          local k = batch[b]
          used[k], at[k], keep[k], part[k], per[k], dirty[k] = u + cost, now, found[n + 2], found[n + 1], den, true
        else -- another one does not: what remains is that before the charge
          out[r] = capacity - u
          if u == 0 then
            out[r + 2] = 0
          elseif num > 0 then -- a window ends when it did
            out[r + 2] = time_until_drained(u, found[n + 1], num, den)
          end
        end
      end
      b, r, n = b + 6, r + 3, n + 3
    end
    if series > 0 then
      decided = decided + 1
      if fits then allowed[series], spent[series] = (allowed[series] or 0) + 1, (spent[series] or 0) + batch[p + 4] end
      if not all_fit then
        local counts, shadowed = more[series] or {0, 0, 0, 0, 0}, 0
        more[series] = counts
        for i = #counts + 1, FIRST_COUNTS + 2 * count do counts[i] = 0 end
        for i = 1, count do
          if not found[3 * i - 2] then
            local slot = FIRST_COUNTS - 1 + 2 * i
            if batch[p - 1 + 6 * i] < 0 then slot, shadowed = slot + 1, 1 end
            counts[slot] = counts[slot] + 1
          end
        end
        counts[3], counts[4] = counts[3] + (fits and 0 or 1), counts[4] + shadowed
      end
    end
    out[o] = fits and 1 or by_time and -1 or 0
    p, o = p + 3 + 6 * count, o + 1 + 3 * count
  else
    others = others or make_others()
    p, o = others.charge(p, o)
  end
end

if others then
  others.write_all()
else
  for k = 1, #KEYS do
    if dirty[k] then
      local state
      if part[k] > 0 then
        state = pack('<ddddd', used[k], at[k], keep[k], part[k], per[k])
      else
        state = pack('<ddd', used[k], at[k], keep[k])
      end
      redis.call('SET', KEYS[k], state, 'PX', string.format('%.0f', ceil((keep[k] - now) / 1000) + GRACE_MS))
    end
  end
end

if decided > 0 or refunded then
  local key, fields = KEYS[#KEYS], cmsgpack.unpack(ARGV[3])
  local have = redis.pcall('HMGET', key, '', unpack(fields)) -- a table with `err` if that fails
  local meta = have[1]
  local minutes = meta and #meta >= 24 and now / MINUTE - select(3, unpack_doubles('<ddd', meta)) or -1 -- since it began
  local sums = minutes >= 0 and minutes < 1 and {} or nil -- nil if others.lua has to count
  for i = 1, sums and #fields or 0 do
    local old = have[i + 1]
    if more[i] or not old or #old < 16 then
      sums = nil
      break
    end
    if allowed[i] then
      local calls, cost = unpack_doubles('<dd', old)
      sums[#sums + 1] = fields[i]
      sums[#sums + 1] = pack('<dd', calls + allowed[i], cost + spent[i]) .. string.sub(old, 17)
    end
  end
  local set = sums and #sums > 0 and redis.pcall('HSET', key, unpack(sums))
  local failed = type(set) == 'table'
  if not sums or failed then
    others = others or make_others()
    others.count(key, fields, not (have.err or failed) and have or nil)
  end
end
return out
