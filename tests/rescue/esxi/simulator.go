// An ESXi host of govmomi's simulator on loopback, for the tests: HTTPS with its own certificate, one datastore in a
// folder of this machine, two virtual machines. It asks for root's password at the login; govmomi's /folder does not.
//
// Build: GOPATH=/usr/share/gocode GO111MODULE=off go build simulator.go (Debian: golang-go and
// golang-github-vmware-govmomi-dev). It prints its address and the datastore's folder, and ends with its stdin.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	model := simulator.ESX()
	defer model.Remove()
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	model.Service.TLS = new(tls.Config)
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("root", os.Getenv("SIMULATOR_PASSWORD"))}
	server := model.Service.NewServer()
	defer server.Close()
	store := simulator.Map.Any("Datastore").(*simulator.Datastore)
	fmt.Println(server.URL.Host)
	fmt.Println(store.Name)
	fmt.Println(store.Info.GetDatastoreInfo().Url)
	io.Copy(io.Discard, os.Stdin)
}
