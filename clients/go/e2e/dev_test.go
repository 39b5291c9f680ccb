// Package e2e_test uses the client against `ratelimit-service dev`, the real service with its stores.
package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// service is the running service, from its dev.json.
var service struct {
	Listen string `json:"listen"`
	APIKey string `json:"api_key"`
}

func TestMain(m *testing.M) {
	code, err := withService(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// withService runs the tests while the service runs. Its executable is $RATELIMIT_SERVICE, or that of this checkout.
func withService(run func() int) (int, error) {
	executable := os.Getenv("RATELIMIT_SERVICE")
	if executable == "" {
		executable = "../../../.venv/bin/ratelimit-service"
	}
	if _, err := os.Stat(executable); err != nil {
		return 0, fmt.Errorf("these tests need the service: run make setup, or set RATELIMIT_SERVICE: %w", err)
	}
	folder, err := os.MkdirTemp("", "ratelimit-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(folder)
	// Started by root, Postgres runs as another user, which must be able to reach its data.
	if err := os.Chmod(folder, 0o755); err != nil {
		return 0, err
	}
	address, err := freeAddress()
	if err != nil {
		return 0, err
	}
	var output bytes.Buffer
	dev := exec.Command(executable, "dev", "--listen", address, "--operations-listen", "", "--data-dir", folder)
	// A busy machine is no store that is away: calls are to be decided by it.
	dev.Env = append(os.Environ(), "RATELIMIT_STORE_TIMEOUT=2", "RATELIMIT_STORE_SLOW=2")
	dev.Stdout, dev.Stderr = &output, &output
	if err := dev.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- dev.Wait() }()
	defer func() {
		_ = dev.Process.Signal(syscall.SIGTERM)
		<-ended
	}()
	if err := serves(address, filepath.Join(folder, "dev.json"), ended); err != nil {
		return 0, fmt.Errorf("%w; its output:\n%s", err, output.String())
	}
	return run(), nil
}

// serves waits until the service responds.
func serves(address, state string, ended chan error) error {
	client, err := ratelimit.NewClient(address, ratelimit.WithDeadline(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	for started := time.Now(); time.Since(started) < 90*time.Second; time.Sleep(100 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			return fmt.Errorf("the service ended: %w", err)
		default:
		}
		text, err := os.ReadFile(state)
		if err != nil || json.Unmarshal(text, &service) != nil {
			continue
		}
		decision, err := client.Peek(context.Background(), ratelimit.CheckRequest{APIKey: service.APIKey, Resource: "ready"})
		if err == nil && decision.Origin == ratelimit.OriginService {
			return nil
		}
	}
	return errors.New("the service does not respond")
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
