-- Calendar windows in UTC, in microseconds. Kinds are those of script.py: 2 second, 3 minute, 4 hour, 5 day, 6 week
-- (from Monday), 7 month, 8 year.
local DAY = 86400000000
local LENGTHS = {[2] = 1000000, [3] = 60000000, [4] = 3600000000, [5] = DAY}

-- Days from 1970-01-01 to the first of a month, which may be 13 for next January. Years are counted from March, so that
-- the leap day comes last and January is a 13th month (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms",
-- days_from_civil).
local function first_of(year, month)
  if month <= 2 then year, month = year - 1, month + 12 end
  local century = math.floor(year / 100)
  local leaps = math.floor(year / 4) - century + math.floor(century / 4)
  return 365 * year + leaps + math.floor((153 * (month - 3) + 2) / 5) - 719468
end

-- The first microsecond of the window that contains AT, and that of the next one.
local function window_of(kind, at)
  local length = LENGTHS[kind]
  if length then
    local start = at - at % length
    return start, start + length
  end
  if kind == 6 then -- 1970-01-05 was a Monday
    local start = at - (at - 4 * DAY) % (7 * DAY)
    return start, start + 7 * DAY
  end
  local days = math.floor(at / DAY)
  local year = 1970 + math.floor(days / 365.2425)
  while first_of(year, 1) > days do year = year - 1 end
  while first_of(year + 1, 1) <= days do year = year + 1 end
  if kind == 8 then return first_of(year, 1) * DAY, first_of(year + 1, 1) * DAY end
  local month = 1 + math.floor((days - first_of(year, 1)) / 31)
  if first_of(year, month + 1) <= days then month = month + 1 end
  return first_of(year, month) * DAY, first_of(year, month + 1) * DAY
end
