// Makes calls with stock grpc-go and prints their outcomes: a line of JSON in, a line of JSON out.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type callSpec struct {
	Method      string            `json:"method"`
	Messages    []string          `json:"messages"`
	Stream      bool              `json:"stream"`
	Metadata    map[string]string `json:"metadata"`
	Timeout     float64           `json:"timeout"`
	CancelAfter float64           `json:"cancel_after"`
	Gzip        bool              `json:"gzip"`
}

type outcome struct {
	Code    int      `json:"code"`
	Message string   `json:"message"`
	Details string   `json:"details"`
	Answers []string `json:"answers"`
}

// bytesCodec leaves messages as they are.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}
func (bytesCodec) Name() string { return "proto" }

func main() {
	channel, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var spec callSpec
		if err := json.Unmarshal(in.Bytes(), &spec); err != nil {
			panic(err)
		}
		if err := out.Encode(run(channel, spec)); err != nil {
			panic(err)
		}
	}
}

func run(channel *grpc.ClientConn, spec callSpec) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(spec.Timeout*float64(time.Second)))
	defer cancel()
	if spec.CancelAfter > 0 {
		time.AfterFunc(time.Duration(spec.CancelAfter*float64(time.Second)), cancel)
	}
	ctx = metadata.NewOutgoingContext(ctx, metadata.New(spec.Metadata))
	var trailer metadata.MD
	options := []grpc.CallOption{grpc.ForceCodecV2(bytesCodec{}), grpc.Trailer(&trailer)}
	if spec.Gzip {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	answers, err := call(ctx, channel, spec, options)
	code := status.Convert(err)
	result := outcome{Code: int(code.Code()), Message: code.Message(), Answers: answers}
	if found := trailer.Get("grpc-status-details-bin"); len(found) > 0 {
		result.Details = base64.StdEncoding.EncodeToString([]byte(found[0]))
	}
	return result
}

func call(ctx context.Context, channel *grpc.ClientConn, spec callSpec, options []grpc.CallOption) ([]string, error) {
	answers := []string{}
	if !spec.Stream {
		var answer []byte
		err := channel.Invoke(ctx, spec.Method, decoded(spec.Messages[0]), &answer, options...)
		if err == nil {
			answers = append(answers, base64.StdEncoding.EncodeToString(answer))
		}
		return answers, err
	}
	kind := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := channel.NewStream(ctx, kind, spec.Method, options...)
	if err != nil {
		return answers, err
	}
	go func() {
		for _, message := range spec.Messages {
			if stream.SendMsg(decoded(message)) != nil {
				return // RecvMsg has the reason
			}
		}
		if spec.CancelAfter == 0 {
			_ = stream.CloseSend()
		}
	}()
	for {
		var answer []byte
		err := stream.RecvMsg(&answer)
		if errors.Is(err, io.EOF) {
			return answers, nil
		}
		if err != nil {
			return answers, err
		}
		answers = append(answers, base64.StdEncoding.EncodeToString(answer))
	}
}

func decoded(text string) []byte {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return data
}
