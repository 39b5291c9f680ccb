package ratelimit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/grpc/resolver"
)

var (
	dnsScheme   = regexp.MustCompile(`^dns:(//[^/]*/)?`)
	otherScheme = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*)://`)
	hostAndPort = regexp.MustCompile(`^(\[[^\[\]]+\]|[^:\[\]]*)(?::([^:\[\]]*))?$`)
)

// checkTarget is the error for a target that no service can be called at, with what is wrong with it.
func checkTarget(target string) error {
	if problem := targetProblem(target); problem != "" {
		return fmt.Errorf(
			"ratelimit: target is %s: %s; it must be host:port, such as \"localhost:50051\", dns:///host:port or unix:path",
			quoted(target), problem)
	}
	return nil
}

// quoted is a text as in JSON, but for characters that only HTML would mistake.
func quoted(text string) string {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a text always encodes
	return strings.TrimSuffix(buffer.String(), "\n")
}

// targetProblem is what is wrong with a target. Empty means nothing.
func targetProblem(target string) string {
	if strings.ContainsFunc(target, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return "it has a blank in it"
	}
	for _, scheme := range []string{"unix:", "unix-abstract:"} {
		if path, found := strings.CutPrefix(target, scheme); found {
			if strings.Trim(path, "/") == "" {
				return "it has no path"
			}
			return ""
		}
	}
	if scheme := dnsScheme.FindString(target); scheme != "" {
		return hostAndPortProblem(strings.TrimPrefix(target, scheme))
	}
	if scheme := otherScheme.FindStringSubmatch(target); scheme != nil {
		if resolver.Get(scheme[1]) != nil {
			return "" // such as xds, or one that the program has registered
		}
		return fmt.Sprintf("leave out %q (TLS is the option tls)", scheme[0])
	}
	return hostAndPortProblem(target)
}

func hostAndPortProblem(text string) string {
	if text == "" {
		return "it is empty"
	}
	if i := strings.IndexAny(text, `/?#@\`); i >= 0 {
		return fmt.Sprintf("it has %q in it", text[i:i+1])
	}
	parts := hostAndPort.FindStringSubmatch(text)
	switch {
	case parts == nil:
		return "put the IPv6 address in brackets"
	case parts[1] == "":
		return "it has no host"
	case parts[2] == "":
		return "it has no port"
	}
	if port, err := strconv.ParseUint(parts[2], 10, 16); err != nil || port == 0 {
		return fmt.Sprintf("its port %q is not a number from 1 to 65535", parts[2])
	}
	return ""
}
