package main

import (
	"github.com/spf13/cobra"

	"holdfast/web/operation"
)

func openAPICommand(a *admin) *cobra.Command {
	return a.asking("openapi", "Print the description of the appliance's API (OpenAPI 3.1)", func(cmd *cobra.Command, _ []string) error {
		return operation.ShowOpenAPI.Download(cmd.Context(), a, operation.Nothing{}, cmd.OutOrStdout())
	})
}
