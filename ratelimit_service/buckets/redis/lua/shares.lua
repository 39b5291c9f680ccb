-- Shares the rates of pools among those who apply their part by themselves: visits of one server, each of another pool.
-- decision/assignments/shares.py is the same in Python, and says what it is for.
--
-- KEYS     the keys of the pools, one for each visit.
-- ARGV[1]  MessagePack: one flat array of integers. Per visit: the units of all holders, their burst, the burst that each gets
--          in any case, the thousandths of the units that are given out on (1000: all), the number of bids. Then per bid: its kind
--          (0 new, 1 carried, 2 kept, 3 left, 4 gone), the demand (-1: unknown), the units and the burst that it has, and the
--          microseconds for which it is renewed (0: it is not).
-- ARGV[2]  the names of the holders of all bids, eight bytes each.
-- Returns one flat array. Per visit: the number of holders, and whether others hold too much, or are to have much more of what was
-- given up here (1). Then per bid: units, burst, the microseconds for which it holds them from now on (0: until when it does), and
-- whether it is to have more (1).
--
-- A pool is kept as doubles: the units that it was bounded to (0: it is not), when, and until when nothing is given; then for each
-- holder its name, and as doubles its demand (-2: it has left), units, burst, and until when it holds them.
--
-- The part before this one sets `now`.

local TTL, SLACK, ORPHAN, QUIET = 15000000, 2000000, 8000000, 6000000 -- microseconds
local MAX_HOLDERS = 500
local PROBE, STEP, SCARCE_STEP, WHOLE, RECOVERY = 0.05, 0.1, 0.01, 0.9, 0.05
local ALL, LEFT = 1000, -2
local NEW, CARRIED, KEPT, LEAVES, GONE = 0, 1, 2, 3, 4
local HEAD, SIZE = 24, 40 -- bytes of a pool, and of each of its holders
local floor, max, min = math.floor, math.max, math.min

local batch, names = cmsgpack.unpack(ARGV[1]), ARGV[2]
local out, at, name_at = {}, 1, 1

-- The holders in a pool that hold something still, in their order, and by name.
local function read(kept)
  local held, by_name = {}, {}
  for p = HEAD + 1, #kept, SIZE do
    local name, demand, units, burst, ends = struct.unpack('<c8dddd', kept, p)
    if ends > now then
      local each = {name = name, demand = demand, units = units, burst = burst, ends = ends}
      held[#held + 1] = each
      by_name[name] = each
    end
  end
  return held, by_name
end

local function remove(held, by_name, each)
  by_name[each.name] = nil
  for i = 1, #held do
    if held[i] == each then return table.remove(held, i) end
  end
end

for k = 1, #KEYS do
  local units, burst, least, keep, count = unpack(batch, at, at + 4)
  at = at + 5
  local kept = redis.call('GET', KEYS[k]) or ''
  local lost = kept == ''
  local bound, bound_at, quiet = 0, 0, 0
  if not lost then bound, bound_at, quiet = struct.unpack('<ddd', kept) end
  local held, by_name = read(kept)
  local bids, new = {}, {}

  for i = 1, count do
    local kind, demand, own, own_burst, renew = unpack(batch, at, at + 4)
    at = at + 5
    local name = string.sub(names, name_at, name_at + 7)
    name_at = name_at + 8
    local each = by_name[name]
    if kind == GONE then
      if each then remove(held, by_name, each) end
      each = nil
    elseif kind == LEAVES then
      if not each and own > 0 then
        each = {name = name, units = own, burst = own_burst, ends = now + ORPHAN}
        held[#held + 1], by_name[name] = each, each
      end
      if each then each.demand, each.ends = LEFT, min(each.ends, now + ORPHAN) end
    elseif each then
      each.demand = demand
      new[i] = kind ~= KEPT or nil
    elseif #held < MAX_HOLDERS then
      local orphan
      if kind == CARRIED then
        for j = 1, #held do
          if held[j].demand == LEFT then
            orphan = held[j]
            break
          end
        end
      end
      each = {name = name, demand = demand, units = own, burst = own_burst, ends = now + TTL + SLACK}
      new[i] = true
      if orphan then
        remove(held, by_name, orphan)
        each.units, each.burst = orphan.units, orphan.burst
      elseif own > 0 and lost then
        quiet = now + QUIET
      end
      held[#held + 1], by_name[name] = each, each
    end
    bids[i] = {each, kind, renew, name}
  end

  local here, known, demands, held_units, burst_rest = 0, 0, 0, 0, burst
  for _, each in ipairs(held) do
    if each.demand ~= LEFT then here = here + 1 end
    if each.demand >= 0 then known, demands = known + 1, demands + each.demand end
    held_units, burst_rest = held_units + each.units, burst_rest - each.burst
  end
  local fewest = min(here, units)
  if bound > 0 then
    local recovered = bound + units * RECOVERY * max(now - bound_at, 0) / 1000000
    if recovered < units then units = floor(recovered) else bound = 0 end
  end
  if keep < ALL then
    units = floor(units * keep / ALL)
    bound, bound_at = max(units, 1), now
  end
  units = max(units, fewest)
  local rest = units - held_units
  local equal = units / max(here, 1)
  local known_units, divisor = equal * known, max(known, 1)
  -- One unit of those that there are, at least: with none Envoy denies all, and then begins with a bucket that is full.
  local base = max(PROBE * known_units / divisor, known_units >= known and 1 or 0)
  local shared = known_units - base * known
  local scarce = demands > shared
  local most_burst = max(floor(burst / max(here, 1)), least)
  local step = scarce and SCARCE_STEP or STEP
  local function target_of(each)
    if each.demand < 0 then return floor(equal) end
    if scarce then return floor(base + shared * each.demand / demands) end
    return floor(base + each.demand + (shared - demands) / divisor)
  end

  local changed, short, any_short, gave_up, mine = new, {}, false, false, {}
  for i = 1, count do
    local each = bids[i][1]
    mine[bids[i][4]] = true
    if each and each.demand ~= LEFT then
      local target = target_of(each)
      if each.units > target and (rest < 0 or each.units > target * (1 + step)) then
        rest = rest + each.units - target
        each.units, changed[i], gave_up = target, true, true
      end
      if each.burst > most_burst then
        burst_rest = burst_rest + each.burst - most_burst
        each.burst, changed[i] = most_burst, true
      end
    end
  end
  for i = 1, count do
    local each, kind = bids[i][1], bids[i][2]
    if each and each.demand ~= LEFT then
      local target, waits = target_of(each), false
      if each.units < target and (each.units == 0 or each.units < target * (1 - step)) then
        local more = quiet > now and 0 or min(target - each.units, max(rest, 0))
        if kind == CARRIED and each.units == 0 and more < target * WHOLE then
          short[i], waits = true, true
        else
          if more > 0 then
            rest = rest - more
            each.units, changed[i] = each.units + more, true
          end
          if each.units < target * (1 - step) then short[i] = true end
        end
      end
      if not waits and each.burst < most_burst and (each.burst == 0 or each.burst < most_burst * (1 - STEP)) then
        local more = quiet > now and 0 or max(min(most_burst - each.burst, max(burst_rest, 0)), least - each.burst)
        if more > 0 then
          burst_rest = burst_rest - more
          each.burst, changed[i] = each.burst + more, true
        end
        if each.burst < most_burst * (1 - STEP) then short[i] = true end
      end
    end
  end

  local o, last = #out + 3, now
  out[o - 2], out[o - 1] = here, 0
  for i = 1, count do
    local each, ttl = bids[i][1], 0
    if each and each.demand ~= LEFT then
      ttl = changed[i] and TTL or bids[i][3]
      if short[i] then
        any_short = true
        if each.units == 0 then ttl = 0 end
      end
      if ttl > 0 then each.ends = max(each.ends, now + ttl + SLACK) end
      out[o], out[o + 1], out[o + 2], out[o + 3] = each.units, each.burst, ttl, short[i] and 1 or 0
    else
      out[o], out[o + 1], out[o + 2], out[o + 3] = 0, 0, 0, 0
    end
    o = o + 4
  end

  local parts = {struct.pack('<ddd', bound, bound_at, quiet)}
  local tolerance = rest < 0 and 0 or step
  local needed, spare = any_short or rest < 0, gave_up and rest > 0
  local due = o - 4 * count - 1 -- where it is returned
  for i, each in ipairs(held) do
    parts[i + 1] = struct.pack('<c8dddd', each.name, each.demand, each.units, each.burst, each.ends)
    last = max(last, each.ends)
    if (needed or spare) and each.demand ~= LEFT and not mine[each.name] then
      local target = target_of(each)
      if needed and (each.units > target * (1 + tolerance) or each.burst > most_burst) then out[due] = 1 end
      if spare and each.units > 0 and each.units < target * (1 - STEP) then out[due] = 1 end
    end
  end
  if bound > 0 then last = max(last, bound_at + 60000000) end
  if last > now then
    redis.call('SET', KEYS[k], table.concat(parts), 'PX', string.format('%.0f', math.ceil((last - now) / 1000)))
  elseif not lost then
    redis.call('DEL', KEYS[k])
  end
end
return out
