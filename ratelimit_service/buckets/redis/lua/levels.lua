-- Levels beside `used`, of token buckets that hold less than what is used (docs/adr/0002); reference.py has the same.
--
-- Such a limit decides by a level of its own: its capacity (with its overdraft, here and below) as of the last charge, drained at its own rate since, and raised
-- by every charge up to its capacity. It needs no state until it is charged itself; then it is noted in `wide` (state.lua).
-- Meanwhile `used` drains at the rate of the limits that filled it, so that it is right when one of them asks again.

-- The functions of levels, made by the first bucket of a run that has some: most runs have none and do not pay for them.
-- The arguments are the locals of those names.
local function make_levels(used, at, keep, part, per, wide, time_until_drained, MAX)
  local YEAR = 31622400000000 -- a leap year, in microseconds
  local MAX_LEVELS = 3 -- of a bucket: of more, those charged longest ago are dropped, and start at their capacity again
  local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max

  -- What is left of AMOUNT micro-tokens, of which DONE / DEN of one has drained, after this time, and the new numerator.
  -- others.lua and plain.lua have the same inline, where it runs for every bucket.
  local function drain(amount, done, elapsed, num, den)
    local periods = floor(elapsed / den)
    local more = (elapsed - periods * den) * num
    local whole = floor(more / den)
    done = done + more - whole * den
    if done >= den then
      done, whole = done - den, whole + 1
    end
    amount = amount - (periods * num + whole)
    if amount <= 0 then return 0, 0 end
    return amount, done
  end

  -- The level at `at` by which a token bucket decides, its numerator, and whether it is its own.
  local function level_of(k, capacity, num, den)
    local levels = wide[k]
    for i = 4, levels and #levels or 0 do
      local level = levels[i]
      if level[1] == capacity and level[2] == num and level[3] == den then return level[4], level[5], true end
    end
    if used[k] > capacity then return capacity, 0, true end
    return used[k], per[k] == den and part[k] or 0, false
  end

  -- The rate at which what is used by limits that are unknown drains so as to be empty at `keep`: never faster than they
  -- drain. In terms so small that arithmetic stays exact.
  local function rate_of(amount, time)
    while amount * time > MAX do
      amount, time = floor(amount / 2), ceil(time / 2)
    end
    return amount, time
  end

  -- What is left, after this time, of the level by which a token bucket decides, and its numerator.
  local function decisive(k, elapsed, capacity, num, den)
    local amount, done = level_of(k, capacity, num, den)
    return drain(amount, done, elapsed, num, den)
  end

  -- Writes what a charge of COST makes of the bucket K, whose limit then has used U by the level it decided by; CLOSING is
  -- the end of a quota's window.
  local function charge(k, kind, cost, when, closing, capacity, num, den, u, done)
    local before, elapsed = wide[k], when - at[k]
    local own = false
    if kind == 1 then
      local _
      _, _, own = level_of(k, capacity, num, den)
    end
    local levels = own and {{capacity, num, den, u, done}} or {}
    for i = 4, before and #before or 0 do
      local level = before[i]
      if #levels < MAX_LEVELS and not (own and level[1] == capacity and level[2] == num and level[3] == den) then
        local amount, rest = drain(level[4], level[5], elapsed, level[2], level[3])
        amount = amount + cost
        if amount <= 0 then amount, rest = 0, 0 end
        if amount >= level[1] then amount, rest = level[1], 0 end
        levels[#levels + 1] = {level[1], level[2], level[3], amount, rest}
      end
    end

    local main_num, main_den, void = num, den, MAX
    if own then
      if before then
        main_num, main_den, void = before[1], before[2], before[3]
      else
        main_num, main_den = rate_of(used[k], max(keep[k] - at[k], 1))
        void = keep[k]
      end
      u, done = drain(used[k], per[k] == main_den and part[k] or 0, elapsed, main_num, main_den)
      u = min(u + cost, MAX)
      if u <= 0 or when >= void then
        u, done = 0, 0
      else -- what is charged now outlives what the unknown limits were charged
        void = max(void, min(when + min(time_until_drained(u, done, main_num, main_den), YEAR), MAX))
      end
    elseif kind ~= 1 then
      main_num, main_den, void = before[1], before[2], max(before[3], closing)
    end

    local kept = {main_num, main_den, void}
    for _, level in ipairs(levels) do
      if kind == 1 and level[4] >= u then -- it needs no level of its own any more
        u, done, kept[1], kept[2], kept[3] = level[4], level[5], level[2], level[3], MAX
      else
        kept[#kept + 1] = level
      end
    end
    if u > 0 and kept[3] == MAX then
      keep[k] = max(keep[k], min(when + min(time_until_drained(u, done, kept[1], kept[2]), YEAR), MAX))
    elseif u > 0 then
      keep[k] = max(keep[k], kept[3])
    end
    used[k], at[k], part[k], per[k] = u, when, done, kept[2]
    wide[k] = #kept > 3 and kept or nil
  end

  return {decisive = decisive, charge = charge}
end
