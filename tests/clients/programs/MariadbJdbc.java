// What users of JDBC do with MariaDB's driver, over TLS that verifies who the server is.
// Reached by DB_HOST, DB_PORT, DB_NAME, DB_CA; DB_USERS are names and passwords by turns, a line each. DB_ELSEWHERE is an
// address of the same server that its certificate does not name, DB_OTHERS a file with other authorities.
// Fails by its exit status.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

public class MariadbJdbc {
    static final int REFUSED = 1045;
    static final int DUPLICATE = 1062;

    static Connection connect(String host, String user, String password, String authorities, String... options)
            throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", user);
        properties.setProperty("password", password);
        properties.setProperty("useSsl", "true"); // and verifies, unless one says that it must not
        properties.setProperty("serverSslCert", authorities);
        for (int i = 0; i < options.length; i += 2) properties.setProperty(options[i], options[i + 1]);
        String address = host + ":" + System.getenv("DB_PORT") + "/" + System.getenv("DB_NAME");
        return DriverManager.getConnection("jdbc:mariadb://" + address, properties);
    }

    static void check(boolean condition, String what) {
        if (!condition) throw new AssertionError(what);
    }

    static void refused(String host, String user, String password, String authorities) throws SQLException {
        try (Connection session = connect(host, user, password, authorities)) {
            throw new AssertionError("connected to a server that is not the one meant");
        } catch (SQLException error) {
            StringBuilder said = new StringBuilder();
            for (Throwable one = error; one != null; one = one.getCause()) said.append(one.getMessage()).append('\n');
            String text = said.toString().toLowerCase();
            check(text.contains("certif") || text.contains("subject"), text);
        }
    }

    static void work(Connection session) throws SQLException {
        try (Statement statement = session.createStatement()) {
            ResultSet tls = statement.executeQuery("SHOW SESSION STATUS LIKE 'Ssl_version'");
            check(tls.next() && tls.getString(2).startsWith("TLSv1."), "TLS");
            statement.execute("CREATE TABLE of_jdbc (a int PRIMARY KEY, b varchar(100) CHARACTER SET utf8mb4)");
        }
        session.setAutoCommit(false);
        session.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        try (PreparedStatement insert = session.prepareStatement("INSERT INTO of_jdbc VALUES (?, ?)")) {
            for (int i = 0; i < 200; i++) {
                insert.setInt(1, i);
                insert.setString(2, "zwölf 😀 " + i);
                insert.addBatch();
            }
            insert.executeBatch();
            session.commit();
            insert.setInt(1, 7);
            insert.setString(2, "again");
            insert.executeUpdate();
            throw new AssertionError("a key twice");
        } catch (SQLException error) {
            check(error.getErrorCode() == DUPLICATE, error.toString());
            session.rollback();
        }
        try (PreparedStatement select = session.prepareStatement("SELECT b FROM of_jdbc WHERE a = ?")) {
            for (int i = 0; i < 20; i++) {
                select.setInt(1, i);
                ResultSet found = select.executeQuery();
                check(found.next() && found.getString(1).equals("zwölf 😀 " + i), "row " + i);
            }
        }
        session.setReadOnly(true);
        session.setReadOnly(false);
        session.commit();
        check(session.isValid(30), "valid");
        try (Statement statement = session.createStatement()) {
            statement.execute("DROP TABLE of_jdbc");
        }
    }

    public static void main(String[] arguments) throws Exception {
        String host = System.getenv("DB_HOST");
        String authorities = System.getenv("DB_CA");
        String[] users = System.getenv("DB_USERS").split("\n");
        for (int i = 0; i < users.length; i += 2) {
            try (Connection session = connect(host, users[i], users[i + 1], authorities)) {
                work(session);
            }
            try (Connection session = connect(host, users[i], users[i + 1], authorities, "useServerPrepStmts", "true")) {
                work(session);
            }
            try (Connection session = connect(host, users[i], "wrong", authorities)) {
                throw new AssertionError("logged in with a wrong password");
            } catch (SQLException error) {
                check(error.getErrorCode() == REFUSED, error.toString());
            }
            refused(System.getenv("DB_ELSEWHERE"), users[i], users[i + 1], authorities);
            refused(host, users[i], users[i + 1], System.getenv("DB_OTHERS"));
        }
    }
}
