package ui

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed assets
var embedded embed.FS

// AssetPrefix is the path of all assets.
const AssetPrefix = "/assets/"

// asset is a file with a name that changes with its content.
type asset struct {
	url, media string
	content    []byte
}

var assets = readAssets()

func readAssets() map[string]asset {
	all := map[string]asset{}
	files, err := fs.ReadDir(embedded, "assets")
	if err != nil {
		panic(err) // it is part of the program
	}
	for _, f := range files {
		content, err := embedded.ReadFile("assets/" + f.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		ext := path.Ext(f.Name())
		url := AssetPrefix + strings.TrimSuffix(f.Name(), ext) + "-" + hex.EncodeToString(sum[:8]) + ext
		all[f.Name()] = asset{url, mime.TypeByExtension(ext), content}
	}
	return all
}

// Asset gives the URL of a file of the folder assets.
func Asset(name string) string { return assets[name].url }

// Assets serves the files under [AssetPrefix]. Browsers keep them for good.
func Assets() http.Handler {
	byURL := map[string]asset{}
	for _, a := range assets {
		byURL[a.url] = a
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := byURL[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", a.media)
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		_, _ = w.Write(a.content) // the caller is gone if this fails
	})
}
