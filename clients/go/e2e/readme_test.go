package e2e_test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// program is a gateway in a module of its own; LINES is replaced by the lines of the README.
const program = `package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/ratelimit-service/clients/go/ratelimit"
	"github.com/ratelimit-service/clients/go/ratelimithttp"
)

func main() {
	target := os.Args[1]
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	})
LINES
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, handler))
}
`

// The README's three lines, as written, protect a server in a module of its own.
func TestReadmeInAConsumerModule(t *testing.T) {
	folder := consumer(t)
	for _, arguments := range [][]string{{"vet", "./..."}, {"build", "-o", "gateway", "."}} {
		command := exec.Command("go", arguments...)
		command.Dir = folder
		// What the module needs is in go.sum and already downloaded; newer versions are not looked up.
		command.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", arguments, err, output)
		}
	}
	gateway := exec.Command(filepath.Join(folder, "gateway"), service.Listen)
	output, err := gateway.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = gateway.Process.Kill()
		_ = gateway.Wait()
	}()
	address, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + strings.TrimSpace(address) + "/v1/orders"
	eventually(t, url, service.APIKey, func(response *http.Response, body string) bool {
		return response.StatusCode == http.StatusOK && body == "hello" && response.Header.Get("RateLimit-Policy") != ""
	})
	eventually(t, url, "garbage", func(response *http.Response, body string) bool {
		return response.StatusCode == http.StatusUnauthorized && strings.Contains(body, "The API key is not known.")
	})
}

// eventually retries until the response is as expected: the lines have the default deadline, and a busy machine may miss
// it, which lets a request pass.
func eventually(t *testing.T, url, key string, expected func(*http.Response, string) bool) {
	t.Helper()
	for started := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		response, body := get(t, url, key)
		if expected(response, body) {
			return
		}
		if time.Since(started) > 10*time.Second {
			t.Fatalf("with the key %q: %d %v %s", key, response.StatusCode, response.Header, body)
		}
	}
}

// consumer is a module that uses this one from its folder, with the versions that this one has tested.
func consumer(t *testing.T) string {
	t.Helper()
	client, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(client, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	fence := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(read("README.md"))
	if fence == nil || strings.Count(fence[1], "\n") != 3 {
		t.Fatalf("the README's first lines of Go are not three: %q", fence)
	}
	const module = "module github.com/ratelimit-service/clients/go"
	goMod := strings.Replace(read("go.mod"), module, "module example.com/gateway", 1) +
		"\nrequire github.com/ratelimit-service/clients/go v0.0.0\n" +
		"\nreplace github.com/ratelimit-service/clients/go => " + strconv.Quote(client) + "\n"
	folder := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": goMod, "go.sum": read("go.sum"), "main.go": strings.Replace(program, "LINES", fence[1], 1),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func get(t *testing.T, url, key string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("x-api-key", key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}
