-- Send the bodies of the file named by ROWS, one after the other, from a place drawn at random.
local rows = {}
for line in io.lines(os.getenv("ROWS")) do rows[#rows + 1] = line end
math.randomseed(os.time())
local n = math.random(#rows)
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  n = n % #rows + 1
  return wrk.format(nil, nil, nil, rows[n])
end
