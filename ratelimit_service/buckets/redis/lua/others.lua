-- Decides the charges that are not plain: with a request, a reservation or grant, an overdraft; made afterwards; of slots, long
-- windows, levels, refunds; where room is scarce. This is the body of make_others, with windows, packed, levels, slots, grants and
-- usage before it. What is to be written is in the same tables as for plain charges: once there are these functions, `write_all` writes
-- for both.
local NO_ROOM, UNKNOWN_WAIT = -2, -3
local SLOTS = 9 -- the kind of a concurrency limit
local FLAGS = 1024 -- times these are added to the number of a charge's buckets: 1 if one has an overdraft, and
local AFTERWARDS, RESERVES, SETTLES, EXTENDS, GRANTS = 2, 4, 8, 16, 32
local HELD_MS = 10000 -- how long a reservation is kept after its hold has ended
local MAX_HOLD = 86400000000 -- from when a reservation was made until its last hold ends
local FEW = 4 -- new buckets of a family for each partition and minute, while room is scarce
local SHORT_MS = 2000 -- how long the results of requests are kept while room is scarce
local SHORT = ROOM_LEFT > 0 and SHORT_MS < tonumber(ARGV[2]) -- whether they are kept for so long only
local RESULT_MS = SHORT and SHORT_MS or tonumber(ARGV[2])
local RETURNED = 'ratelimit:returned' -- the channel of returned_watch.py
local USAGE_SHARE = 0.125 -- of the bytes that counts may take, on a server that is full

local levels -- the functions of levels.lua; nil until a bucket has some
local results = {} -- of requests, packed, by key
local opens, closes = {}, {} -- the windows that contain `now`, by kind
local afterwards, stride = false, 6 -- whether the charge is made afterwards; the numbers of each of its buckets
local slots, grants -- the functions of slots.lua and grants.lua; nil until a charge has some
local records, lasts = {}, {} -- reservations and grants that have changed, by key, and the milliseconds for which they are kept
local reserves, settles, extends = false, false, false -- what the charge does to a reservation
-- When that was made; when its hold ends; the second with which its slots come back, and did before. A byte for each bucket of the
-- charge from which it took nothing, and for each that it was not made with: its position from 0.
local made_at, ends, second, second_before, untaken, foreign
local used_after -- of a grant that is returned, by the number of a bucket what was used after it; see grants.lua
local by_time -- whether each wait of the charge is over by time alone, unless a bucket is noted in `freed` before
local freed -- the buckets, by key, that somebody may take for fuller than they are now; nil while there are none
local clamped -- by the number of a bucket the tokens that it did not record; nil while there are none
local few = ROOM_LEFT == 1 -- whether new buckets are counted by family
local families, made = few and {}, few and {} -- that of a new bucket, by key; how many are made now, by tag and family

-- The hash that counts the new buckets of a minute by family, of those in the slot of K.
local function minute_of(k)
  return string.match(KEYS[k], '^[^:]*') .. ':m'
end

-- Whether there is room for the bucket K, which is new. Notes it in `made`.
local function has_room(k, family)
  if ROOM_LEFT == 3 then return false end
  if family == 0 then return true end
  if ROOM_LEFT == 2 then return false end
  local minute, field = minute_of(k), string.format('%.0f', family)
  local count = made[minute .. field]
  if not count then
    count = tonumber(redis.call('HGET', minute, field) or 0)
    -- The clock has stepped back: that minute would last until it has caught up.
    if count >= FEW and redis.call('PTTL', minute) > 60000 then count = 0 end
  end
  if count >= FEW then return false end
  families[k], made[minute .. field] = field, count + 1
  return true
end

local function note_freed(k)
  freed = freed or {}
  freed[k] = true
end

-- Counts micro-tokens that are refunded to the bucket K. Begins anew before the number is inexact: smaller ones say nothing.
local function count_refund(k, amount)
  if refunds[k] then refunds[k] = refunds[k] + amount < 2^51 and refunds[k] + amount or 1 end
end

-- Returns to the bucket K of this kind as much of AMOUNT micro-tokens, which came to nothing of those RESERVED, as has not
-- drained until WHEN, rounded down; to a quota nothing once another window has begun, at OPENING. Of a grant AFTER has what was used
-- then, and what had been refunded: what was used before it has drained first, unless that was refunded since.
--
-- What is kept is lowered as of the last charge: less of the reservation had drained then than now, so that it includes what
-- is returned. A limit that decides by a level of its own (levels.lua) lowers that alone, since what is used in all may have
-- drained faster.
local function return_to(k, kind, amount, reserved, when, most, num, den, opening, after)
  if kind ~= 1 then
    if made_at < opening then return end
  else
    local elapsed = math.max(when - made_at, 0)
    local periods = floor(elapsed / den)
    local drained = periods * num + math.ceil((elapsed - periods * den) * num / den)
    local undrained = reserved - drained
    if after and refunds[k] and refunds[k] >= after[2] then
      undrained = math.max(undrained, after[1] - drained - (refunds[k] - after[2]))
    end
    amount = math.min(amount, undrained)
    if amount <= 0 then return end
    local all = wide and wide[k]
    for i = 4, all and #all or 0 do
      local level = all[i]
      if level[1] == most and level[2] == num and level[3] == den then
        local left = math.max(level[4] - amount, 0)
        all = {unpack(all)}
        all[i] = {level[1], level[2], level[3], left, left > 0 and level[5] or 0}
        wide[k], dirty[k], keep[k] = all, true, math.max(keep[k], now)
        count_refund(k, amount)
        return
      end
    end
    if used[k] > most then return end
  end
  count_refund(k, amount)
  used[k], dirty[k], keep[k] = math.max(used[k] - amount, 0), true, math.max(keep[k], now)
  if not refunds[k] then note_freed(k) end -- an earlier version has reserved it; else nobody takes it for full, see below
  if used[k] == 0 then part[k] = 0 end
end

-- Eight bytes for each of COUNT buckets from batch[p] on, by which it is known again: what its key says of its kind, and the end
-- of its name, which is a digest.
local function marks_of(p, count)
  local marks = {}
  for i = 1, count do
    local key = KEYS[batch[p]]
    marks[i] = string.match(key, '}:(%a)') .. string.sub(key, -7)
    p = p + stride
  end
  return table.concat(marks)
end

-- The positions of COUNT buckets from batch[p] on among those of a reservation, which has these MARKS: a byte for each that is one
-- of those with the positions NOTHING, and for each that is none.
local function positions_in(marks, nothing, p, count)
  local own = marks_of(p, count)
  if own == marks then return nothing, '' end -- nearly always
  local here, none = '', ''
  for i = 0, count - 1 do
    local mark, at = string.sub(own, 8 * i + 1, 8 * i + 8), nil
    for j = 0, #marks / 8 - 1 do
      if not at and string.sub(marks, 8 * j + 1, 8 * j + 8) == mark then at = j end
    end
    if not at then
      none = none .. string.char(i)
    elseif string.find(nothing, string.char(at), 1, true) then
      here = here .. string.char(i)
    end
  end
  return here, none
end

-- Evaluates the bucket K at position I of a charge, which is a concurrency limit, and writes its result to out[o] on. Takes,
-- returns or extends a slot unless `undo` is false. Returns the wait, 0 if it fits.
local function evaluate_slots(k, i, tokens, reserved, capacity, o, undo)
  local wait, changed = 0, false
  if reserves and tokens > 0 then
    if ROOM_LEFT == 3 then
      wait = NO_ROOM
    elseif slots.total(k) * TOKEN >= capacity then
      wait = UNKNOWN_WAIT
    elseif undo ~= false then
      changed = slots.add(k, second, 1)
    end
    if wait ~= 0 then untaken = untaken .. string.char(i - 1) end
  elseif reserved > 0 and (settles or extends) then
    changed = slots.add(k, second_before, -1)
    if changed and extends then slots.add(k, second, 1) end
  end
  if changed then
    if undo and undo.slots then undo.slots[#undo.slots + 1] = {k, dirty[k]} end
    dirty[k] = true
  end
  out[o] = math.max(capacity - slots.total(k) * TOKEN, 0)
  out[o + 1] = wait
  out[o + 2] = slots.reset(k)
  return wait
end

local function window(kind, when)
  if when ~= now then return window_of(kind, when) end
  if not opens[kind] then opens[kind], closes[kind] = window_of(kind, now) end
  return opens[kind], closes[kind]
end

-- Evaluates COUNT buckets from batch[p] on and writes their results to out[o] on. Charges each that fits, unless `undo` is
-- false; if `undo` is a table, appends the previous states to it. Returns whether all enforced ones fit, and whether all do.
-- A charge made afterwards is recorded up to the overdraft, and fits if a token is left then.
local function evaluate(p, o, count, undo)
  local fits, all_fit = true, true
  for i = 1, count do
    local k, tokens, kind = batch[p], batch[p + 1], batch[p + 2]
    local capacity, num, den = batch[p + 3], batch[p + 4], batch[p + 5]
    local reserved = 0
    if stride == 8 then
      reserved = batch[p + 7]
      if foreign ~= '' and string.find(foreign, string.char(i - 1), 1, true) then
        tokens, reserved = 0, 0
      elseif reserved > 0 and string.find(untaken, string.char(i - 1), 1, true) then
        if settles then tokens = tokens + reserved end
        reserved = 0
      end
    end
    local cost, most, overdraft = tokens * TOKEN, capacity, -1
    local needed, taken, missed = cost, tokens, 0
    if stride > 6 and batch[p + 6] >= 0 then
      overdraft = batch[p + 6]
      most = capacity + overdraft
      if tokens == 0 then needed = TOKEN end
    end
    p = p + stride
    local shadow = kind < 0
    if shadow then kind = -kind end
    local family = 0
    if kind > 16 then
      family = floor(kind / 16)
      kind = kind - 16 * family
    end
    if kind == SLOTS then
      slots = slots or make_slots(now, stored)
      local wait = evaluate_slots(k, i, tokens, reserved, capacity, o, undo)
      if wait ~= 0 then
        all_fit, by_time = false, false
        if not shadow then fits = false end
      end
    else
      if not used[k] then read(k) end
      local u, a, done = used[k], at[k], 0
      local opening, closing

      if a > now then -- the clock has stepped back
        local full
        if kind == 1 then
          full = time_until_drained(most, 0, num, den)
        else
          opening, closing = window(kind, now)
          full = closing - opening
        end
        if a - now > full then
          if cost ~= 0 and undo ~= false then
            at[k], keep[k], dirty[k] = now, math.max(keep[k] - (a - now), now), true
          end
          a = now
        end
      end
      local when = a > now and a or now
      if settles and tokens < 0 and undo ~= false then
        if kind ~= 1 then opening = window(kind, when) end
        return_to(k, kind, -tokens * TOKEN, reserved * TOKEN, when, most, num, den, opening, used_after and used_after[i])
        u = used[k]
        tokens, cost, taken = 0, 0, 0
      end
      local wide_before = wide and wide[k]
      local leveled = wide_before or u > most and kind == 1

      if leveled and not levels then
        wide = wide or {}
        levels = make_levels(used, at, keep, part, per, wide, time_until_drained, MAX)
      end
      if leveled and kind == 1 then
        u, done = levels.decisive(k, when - a, most, num, den)
      elseif kind == 1 then
        if per[k] == den then done = part[k] end
        if u > 0 then
          local elapsed = when - a
          local periods = floor(elapsed / den)
          local more = (elapsed - periods * den) * num
          local whole = floor(more / den)
          done = done + more - whole * den
          if done >= den then
            done, whole = done - den, whole + 1
          end
          u = u - (periods * num + whole)
        end
        if u <= 0 then
          u, done = 0, 0
        end
      else
        opening, closing = window(kind, when)
        if a < opening then u = 0 end
      end

      local wait, wrote = 0, false
      if afterwards and tokens > 0 then
        local room = u < most and floor((most - u) / TOKEN) or 0
        if taken > room then
          taken, missed = room, taken - room
          cost = taken * TOKEN
        end
      end
      if needed <= 0 or u + needed <= capacity or settles or afterwards and tokens > 0 then
        local writes = taken ~= 0 and undo ~= false
        if writes and ROOM_LEFT > 0 and not stored[k] and not dirty[k] and not has_room(k, family) then
          writes = false
          missed = tokens
          if cost > 0 and not shadow then
            fits, all_fit, wait, by_time = false, false, NO_ROOM, false
          end
        end
        if writes then
          if undo then
            local n = #undo
            undo[n + 1], undo[n + 2], undo[n + 3], undo[n + 4] = k, used[k], at[k], keep[k]
            undo[n + 5], undo[n + 6], undo[n + 7] = part[k], per[k], dirty[k] or false
            undo[n + 8], undo[n + 9] = wide_before or false, mixed[k] or false
          end
          if cost < 0 then count_refund(k, -cost) end
          u = u + cost
          if u <= 0 then
            u, done = 0, 0
          end
          if leveled then
            levels.charge(k, kind, cost, when, closing, most, num, den, u, done)
          else
            used[k], at[k], part[k], per[k] = u, when, done, den
          end
          dirty[k], wrote = true, true
        end
        needed = 0
        if settles or afterwards and tokens > 0 then
          needed = TOKEN
          if missed > 0 then
            clamped = clamped or {}
            clamped[i] = missed
          end
        end
      end
      if needed > 0 and wait == 0 and u + needed > capacity then
        all_fit = false
        if not shadow then fits = false end
        if needed > capacity then
          wait = -1
        else
          local full = closing -- when it is untouched, if no other limit has charged it
          if kind == 1 then
            wait = when - now + time_until_drained(u - capacity + needed, done, num, den)
            if wait > MAX then wait = MAX end
            full = at[k] + time_until_drained(used[k], per[k] == den and part[k] or 0, num, den)
          else
            wait = closing - now
          end
          -- Of what was reserved or granted some may be returned; but never more than was taken since this denial.
          if leveled or a > now or keep[k] ~= full or mixed[k] or refunds[k] then by_time = false end
        end
      end

      local reset = 0
      if u > 0 then
        reset = kind == 1 and when - now + time_until_drained(u, done, num, den) or closing - now
        if reset > MAX then reset = MAX end
      end
      if reserves and tokens > 0 and not wrote then untaken = untaken .. string.char(i - 1) end
      if wrote then
        local due = now + reset <= MAX and now + reset or MAX
        -- By one limit alone it is untouched later by what the charge takes, rounded, and a quota when it was before.
        local ahead = due - keep[k] - (kind == 1 and cost / num * den or 0)
        local others = not leveled and keep[k] > now and (ahead >= 1 or ahead <= -1)
        if cost < 0 or leveled and not wide_before or others and not mixed[k] then note_freed(k) end
        if others then mixed[k] = true elseif kind == 1 and not refunds[k] then mixed[k] = nil end
        if keep[k] < due then keep[k] = due end
        if reserves then refunds[k] = refunds[k] or 1 end
      end
      out[o] = (u < capacity or overdraft >= 0) and capacity - u or 0
      out[o + 1] = wait
      out[o + 2] = reset
    end
    o = o + 3
  end
  return fits, all_fit
end

-- Counts for a series that not all buckets have room: the charge with buckets from batch[p] on and its result at out[o].
-- Those of the series are at the POSITIONS values from batch[b] on, or all of them if `b` is nil.
local function count_limits(series, p, o, limits, positions, b)
  local counts = more[series] or {0, 0, 0, 0, 0}
  more[series] = counts
  for i = #counts + 1, 5 + 2 * limits do counts[i] = 0 end
  local seen, shadowed = {}, 0
  for i = 0, positions - 1 do
    local position = b and batch[b + i] or i
    if out[o + 2 + 3 * position] ~= 0 then
      local slot = 6 + 2 * (i % limits)
      if batch[p + 2 + stride * position] < 0 then slot, shadowed = slot + 1, 1 end
      if not seen[slot] then counts[slot], seen[slot] = counts[slot] + 1, true end
    end
  end
  counts[3], counts[4] = counts[3] + 1 - out[o], counts[4] + shadowed
end

-- Counts for a series with so many LIMITS the most tokens that one of its buckets did not record. Those of the series are at
-- the POSITIONS values from batch[b] on, or all of them if `b` is nil.
local function count_clamped(series, limits, positions, b)
  local most = 0
  for i = 0, positions - 1 do most = math.max(most, clamped[1 + (b and batch[b + i] or i)] or 0) end
  if most == 0 then return end
  local counts = more[series] or {0, 0, 0, 0, 0}
  more[series] = counts
  for i = #counts + 1, 6 + 2 * limits do counts[i] = 0 end
  counts[6 + 2 * limits] = counts[6 + 2 * limits] + most
end

-- Counts for a series with so many LIMITS that a call reserved (NUMBER 1), or that its actual cost is known (2).
local function count_reservation(series, limits, number)
  local counts = more[series] or {0, 0, 0, 0, 0}
  more[series] = counts
  local at = 6 + 2 * limits + number
  for i = #counts + 1, at do counts[i] = 0 end
  counts[at] = counts[at] + 1
end

-- Counts a charge for the COUNT series from batch[b] on. RESERVATION: whether it makes or settles one.
local function count_series(count, b, p, o, all_fit, reservation)
  for _ = 1, count do
    local series, calls, cost, limits, positions = unpack(batch, b, b + 4)
    if clamped then count_clamped(series, limits, positions, b + 5) end
    if out[o] > 0 then
      allowed[series], spent[series] = (allowed[series] or 0) + calls, (spent[series] or 0) + cost
      refunded = refunded or calls == 0
      if reservation then count_reservation(series, limits, settles and 2 or 1) end
    end
    if calls == 1 and not all_fit then count_limits(series, p, o, limits, positions, b + 5) end
    decided = decided + calls
    b = b + 5 + positions
  end
end

local function open_grants()
  return make_grants(now, batch, out, more, refunds, TOKEN, window)
end

-- Restores what the charge has changed before a bucket did not fit: UNDO, as `evaluate` has filled it.
local function restore(undo)
  local reversed = undo.slots or {}
  for i = #reversed, 1, -1 do
    slots.add(reversed[i][1], second, -1)
    dirty[reversed[i][1]] = reversed[i][2]
  end
  for i = #undo - 8, 1, -9 do
    local k = undo[i]
    used[k], at[k], keep[k], part[k], per[k], dirty[k] = unpack(undo, i + 1, i + 6)
    if wide then wide[k] = undo[i + 7] or nil end
    mixed[k] = undo[i + 8] or nil
    if few and families[k] and not dirty[k] then
      local counter = minute_of(k) .. families[k]
      made[counter], families[k] = made[counter] - 1, nil
    end
  end
end

-- Decides the charge at batch[p] and writes its result to out[o] on. Returns where the next ones are.
local function charge(p, o)
  local count, request, series = batch[p], batch[p + 1], batch[p + 2]
  local record, hold, gone, repeated, grant -- a grant that may be made: its key, units, end and call
  local state, rest = 'o', '' -- of the reservation as it is kept: what is before the doubles, and what follows them
  local held, holds = 0, 0 -- when its hold ended before the charge, and ends after it
  local marks -- of the buckets that the result is of that is kept; nil if that is not known
  afterwards, stride, clamped, by_time = false, 6, nil, true
  reserves, settles, extends = false, false, false
  p = p + 3
  if count > FLAGS then
    local flags = floor(count / FLAGS)
    stride, count = 7, count % FLAGS
    if flags >= RESERVES then
      record, hold = batch[p], batch[p + 1]
      p = p + 2
      if flags >= GRANTS then
        grants = grants or open_grants()
        local found, returned = grants.read(records[record] or stored[record])
        flags, gone, untaken, foreign = flags - GRANTS, true, '', ''
        if flags == SETTLES then -- it is returned
          stride = 8
          for i = o, o + 2 + count do out[i] = 0 end
          if found then
            out[o], out[o + 1], out[o + 2] = 1, math.min(hold, found.units), math.max(found.ends - now, 0)
            used_after = grants.settle(p, o + 3, count, marks_of(p, count), found, out[o + 1])
            made_at, settles = found.made, true
            evaluate(p, o + 3 + count, count, nil)
            settles, used_after = false, nil
            for i = p, p + 8 * count - 8, 8 do batch[i + 1], batch[i + 7] = 0, 0 end -- from here on a peek
          elseif returned then
            out[o] = 2
          end
          if not returned then
            decided = decided + grants.add(-series, p + stride * count)
            records[record] = 's'
            lasts[record] = RESULT_MS
          end
          o = o + 3 + count
        else
          local wants, share, call = batch[p], batch[p + 1], batch[p + 2]
          local units, left = 0, 0
          p = p + 3
          if found and found.ends > now and found.call == call then
            units, left, reserves = found.units, found.ends - now, true -- the same again
          elseif found or returned then
            left = -1
          elseif ROOM_LEFT == 3 then
            left = NO_ROOM
          elseif evaluate(p, o + 4, count, false) then
            units, left = grants.size(p, o + 4, count, wants, share, hold)
            if left < MIN_GRANT then units = 0 end
            gone = units == 0
          end
          if not gone then
            for i = p, p + 7 * count - 7, 7 do batch[i + 1] = batch[i + 1] * units end
            grant, reserves = {record, units, now + left, call}, true
          end
          out[o], out[o + 1], out[o + 2] = gone and 0 or units, units, left
          o = o + 3
        end
        record = nil
      else
        reserves, settles, extends = flags < SETTLES, flags >= SETTLES and flags < EXTENDS, flags >= EXTENDS
        if not reserves then stride = 8 end
      end
    end
    afterwards = settles or flags % RESERVES >= AFTERWARDS
  end
  local last = o + 3 * count
  local packed = request > 0 and (results[request] or stored[request]) or false
  untaken, foreign = '', ''
  if record then
    slots = slots or make_slots(now, stored)
    local kept = records[record] or stored[record]
    if kept and string.sub(kept, 1, 1) == 's' then
      if settles then packed = string.sub(kept, 2) end
      repeated, kept = true, nil
    end
    gone = not kept
    if kept then
      made_at, ends, second_before = struct.unpack('<ddd', kept, 2)
      state, rest, untaken = string.sub(kept, 1, 1), string.sub(kept, 26), string.sub(kept, 26)
      gone, held = ends <= now, ends
      if state == 'n' and not gone then
        local size = 8 * struct.unpack('<I2', rest)
        marks = string.sub(rest, 3, size + 2)
        if not reserves then untaken, foreign = positions_in(marks, string.sub(rest, size + 3), p, count) end
      end
    end
    if reserves then
      repeated = repeated or not gone
      made_at, ends, untaken, gone, held = now, math.min(now + hold, MAX), '', false, 0
      second = slots.second_of(ends, hold)
    elseif extends and not gone then
      ends = math.max(ends, math.min(now + hold, made_at + MAX_HOLD))
      second = math.max(second_before, slots.second_of(ends, ends - now))
    end
  end
  local previous, others
  if packed then previous, others = cmsgpack.unpack(packed) end
  if type(others) == 'string' then marks = others end
  local changed = false -- whether the charge makes, settles or extends a reservation
  if (gone or repeated and reserves) and not previous then
    -- There is none, or by another call with the same id there is one already: a peek.
    settles, extends, afterwards = false, false, false
    out[o], reserves = reserves and 1 or 0, false
    evaluate(p, o + 1, count, false)
  elseif extends then
    evaluate(p, o + 1, count, nil)
    out[o] = ends - now
    changed, holds = true, ends
    records[record] = state .. struct.pack('<ddd', made_at, ends, second) .. rest
    lasts[record] = math.ceil((ends - now) / 1000) + HELD_MS
  elseif not previous or previous[1] == 0 then -- an earlier version kept denials, too
    local undo = count > 1 and not afterwards and {slots = reserves and {} or nil} or nil
    local fits, all_fit = evaluate(p, o + 1, count, undo)
    out[o] = fits and 1 or 0
    if afterwards then
      local most = 0
      for _, missed in pairs(clamped or {}) do most = math.max(most, missed) end
      out[o] = 2 + 2 * most + (fits and 0 or 1)
      fits, all_fit = true, true -- it is charged, and counted as such
    end
    if undo and not fits then
      restore(undo)
      -- What remains is reset to before the charge. The waits are kept: they are right even for a bucket listed twice.
      local waits = {}
      for i = 1, count do waits[i] = out[o + 3 * i - 1] end
      evaluate(p, o + 1, count, false)
      for i = 1, count do out[o + 3 * i - 1] = waits[i] end
    end
    if series > 0 then -- the common case
      decided = decided + 1
      if fits then
        allowed[series], spent[series] = (allowed[series] or 0) + 1, (spent[series] or 0) + batch[p + 1]
        if clamped then count_clamped(series, count, count, nil) end
        if reserves then count_reservation(series, count, 1) end
      end
      if not all_fit then count_limits(series, p, o, count, count, nil) end
    elseif series < 0 then
      count_series(-series, p + stride * count, p, o, all_fit, reserves or settles)
    end
    if not fits and by_time and not reserves then out[o] = -1 end
    -- A denial is not kept: a repeat may fit by then.
    if request > 0 and fits then results[request] = cmsgpack.pack({unpack(out, o, last)}) end
    if reserves and fits then
      if grant then
        local key, units, over, call = unpack(grant)
        records[key] = grants.pack(p, o + 1, count, marks_of(p, count), untaken, units, over, call)
        lasts[key] = math.ceil((over - now) / 1000) + GRANT_MS
      else
        changed, holds = true, ends
        state, rest = 'o', untaken
        if request > 0 then state, rest = 'n', struct.pack('<I2', count) .. marks_of(p, count) .. untaken end
        records[record] = state .. struct.pack('<ddd', made_at, ends, second) .. rest
        lasts[record] = math.ceil(hold / 1000) + HELD_MS
      end
    elseif settles then
      changed = true
      records[record] = 's' .. cmsgpack.pack({unpack(out, o, last)})
      if state == 'n' then records[record] = records[record] .. cmsgpack.pack(marks_of(p, count)) end
      lasts[record] = RESULT_MS
    end
  elseif #previous == last - o + 1 and (not marks or marks == marks_of(p, count)) then
    for i = o, last do out[i] = previous[i - o + 1] end
  else
    -- It was evaluated with other buckets, before its policy changed: the same decision, and a peek at these ones.
    reserves, settles, afterwards = false, false, afterwards and not settles
    evaluate(p, o + 1, count, false)
    out[o] = previous[1]
  end
  p, o = p + stride * count, last + 1
  if record then
    out[o], out[o + 1] = changed and held or 0, holds
    o = o + 2
  end
  for _ = 1, -series do p = p + 5 + batch[p + 4] end
  return p, o
end

-- Writes what has changed.
local function write_all()
  for k = 1, #KEYS do
    if dirty[k] and slots and slots.taken[k] then
      slots.write(KEYS[k], k)
    elseif records[k] then
      redis.call('SET', KEYS[k], records[k], 'PX', string.format('%.0f', lasts[k]))
    elseif dirty[k] then
      write(k)
      if few and families[k] then
        redis.call('HINCRBY', minute_of(k), families[k], 1)
        redis.call('EXPIRE', minute_of(k), 60, 'LT') -- if it has none yet, or one from before the clock stepped back
      end
    elseif results[k] and SHORT then
      redis.call('SET', KEYS[k], results[k] .. cmsgpack.pack(SHORT_MS), 'PX', SHORT_MS) -- refund.lua reads it
    elseif results[k] then
      redis.call('SET', KEYS[k], results[k], 'PX', ARGV[2])
    end
  end

  if freed then
    local names = {}
    for k in pairs(freed) do
      if dirty[k] then names[#names + 1] = string.match(KEYS[k], '}:b:(.*)') end
    end
    -- It may not be among the rights of the service's user: then denials are remembered nowhere.
    if #names > 0 then redis.pcall('PUBLISH', RETURNED, table.concat(names, ' ')) end
  end
end

-- Counts what was decided, for the series FIELDS in KEY. HAVE is what they had, if that is known.
local function count(key, fields, have)
  local cap = tonumber(ARGV[4]) * (ROOM_LEFT == 3 and USAGE_SHARE or 1)
  if not pcall(usage_add, key, cap, fields, allowed, spent, more, have) then usage_lost(key, decided) end
end

return {charge = charge, write_all = write_all, count = count}
