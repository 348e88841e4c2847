// Holds our formats against golang.org/x/mod/sumdb, which wrote them first: `interop VECTORS` our
// frozen vectors, `interop tiles FOLDER VKEY` a log as it was written into a folder of tiles.
// Run by tests/protocol/test_interop_go.py with the packages that the Go tool itself vendors.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
		Vkey     string `json:"term_vkey"`
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

// tiles reads a log's tiles from a folder; TileHashReader believes none of them unseen.
type tiles struct{ folder string }

func (t tiles) Height() int { return 8 }

func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(wanted))
	for i, tile := range wanted {
		// Go's own paths name the height, which the specification has fixed.
		name := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(t.folder, name))
		if err != nil {
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}

func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func entries(folder string, size int64) [][]byte {
	var found [][]byte
	for int64(len(found)) < size {
		tile := tlog.Tile{H: 8, L: 0, N: int64(len(found)) / 256, W: 256}
		if left := size - int64(len(found)); left < 256 {
			tile.W = int(left)
		}
		name := strings.Replace(tile.Path(), "tile/8/0/", "tile/entries/", 1)
		data, err := os.ReadFile(filepath.Join(folder, name))
		check(err, "entries")
		for len(data) > 0 {
			n := int(data[0])<<8 | int(data[1])
			found = append(found, data[2:2+n])
			data = data[2+n:]
		}
	}
	return found
}

func checkTiles(folder, vkey string) {
	key, err := note.NewVerifier(vkey)
	check(err, "vkey")
	message, err := os.ReadFile(filepath.Join(folder, "checkpoint"))
	check(err, "checkpoint")
	opened, err := note.Open(message, note.VerifierList(key))
	check(err, "note")
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err, "size")
	root, err := tlog.ParseHash(lines[2])
	check(err, "root")
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, tiles{folder})
	for index, entry := range entries(folder, size) {
		proof, err := tlog.ProveRecord(size, int64(index), reader)
		check(err, "inclusion")
		check(tlog.CheckRecord(proof, size, root, int64(index), tlog.RecordHash(entry)), "record")
	}
	for old := int64(1); old <= size; old += 1 + old/3 {
		before, err := tlog.TreeHash(old, reader)
		check(err, "root")
		proof, err := tlog.ProveTree(size, old, reader)
		check(err, "consistency")
		check(tlog.CheckTree(proof, size, root, old, before), "tree")
	}
	fmt.Printf("%d leaves hold\n", size)
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "tiles" {
		checkTiles(os.Args[2], os.Args[3])
		return
	}
	checkNotes()
	checkTree()
	fmt.Println("all vectors hold")
}
