// Holds our frozen vectors against golang.org/x/mod/sumdb, which wrote the formats first.
// Run by tests/protocol/test_interop_go.py with the packages that the Go tool itself vendors.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"interop/note"
	"interop/tlog"
)

func check(err error, what string) {
	if err != nil {
		fmt.Fprintln(os.Stderr, what+":", err)
		os.Exit(1)
	}
}

func read(name string, into any) {
	data, err := os.ReadFile(filepath.Join(os.Args[1], name))
	check(err, name)
	check(json.Unmarshal(data, into), name)
}

func hashes(texts []string) []tlog.Hash {
	out := make([]tlog.Hash, len(texts))
	for i, text := range texts {
		raw, err := hex.DecodeString(text)
		check(err, "hash")
		copy(out[i][:], raw)
	}
	return out
}

func checkNotes() {
	var vector struct {
		Vkey     string `json:"log_vkey"`
		Signed   string `json:"signed"`
		Cosigned string `json:"cosigned"`
		Text     string `json:"text"`
	}
	read("checkpoint.json", &vector)
	key, err := note.NewVerifier(vector.Vkey)
	check(err, "vkey")
	for _, message := range []string{vector.Signed, vector.Cosigned} {
		opened, err := note.Open([]byte(message), note.VerifierList(key))
		check(err, "note")
		if opened.Text != vector.Text {
			check(fmt.Errorf("differs"), "text")
		}
	}
}

func checkTree() {
	var vector struct {
		Leaves      []string `json:"leaves"`
		Roots       []string `json:"roots"`
		Inclusion   []string `json:"inclusion_4_of_7"`
		Consistency []string `json:"consistency_3_to_7"`
	}
	read("tree.json", &vector)
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = stored[index]
		}
		return out, nil
	})
	for i, leaf := range vector.Leaves {
		more, err := tlog.StoredHashes(int64(i), []byte(leaf), reader)
		check(err, "leaf")
		stored = append(stored, more...)
	}
	roots := hashes(vector.Roots)
	for size := 1; size < len(roots); size++ {
		root, err := tlog.TreeHash(int64(size), reader)
		check(err, "root")
		if root != roots[size] {
			check(fmt.Errorf("differs at size %d", size), "root")
		}
	}
	leaf := tlog.RecordHash([]byte(vector.Leaves[4]))
	check(tlog.CheckRecord(hashes(vector.Inclusion), 7, roots[7], 4, leaf), "inclusion")
	check(tlog.CheckTree(hashes(vector.Consistency), 7, roots[7], 3, roots[3]), "consistency")
}

func main() {
	checkNotes()
	checkTree()
	fmt.Println("all vectors hold")
}
