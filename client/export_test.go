package client

// Prefer makes the client use the endpoint of that URL.
func Prefer(c *Client, url string) bool {
	for i, e := range c.endpoints {
		if e.url == url {
			c.current.Store(int32(i))
			return true
		}
	}
	return false
}
